"""What msgpack cannot carry is refused with its place, its type, and what to hand on in its stead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import pytest
from pydantic import BaseModel

from sage_actors.messages.codec import pack
from sage_actors.messages.errors import ResultError


@dataclass
class Point:
    x: int = 1


class Order(BaseModel):
    number: int = 1


class Colour(Enum):
    RED = 1


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (Point(), r"test_codec.Point; .*\(use dataclasses.asdict\)"),
        (Order(), r"\(use its model_dump\(mode='json'\)\)"),
        (Colour.RED, r"\(use its value\)"),
        (datetime(2030, 1, 1), r"\(use its isoformat\(\)\)"),
        (timedelta(1), r"\(use its total_seconds\(\)\)"),
        (PurePosixPath("a"), r"\(use str\(path\)\)"),
        ({1}, r"builtins.set; .*\(use sorted\(...\), a list\)"),
        (numbers(), r"generator; .*\(use list\(...\)\)"),
        (object(), r"builtins.object; msgpack carries None, bool, int, float, str, bytes, list and dict$"),
    ],
)
def test_what_cannot_be_carried_says_what_can(value: Any, way: str) -> None:
    with pytest.raises(
        ResultError, match=r"the value cannot be stored: value\['rows'\]\[0\] is of type .*" + way
    ):
        pack({"rows": [value]})
