"""Operations of the golden runs. Results are journaled: what a function here returns must never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def numbers(count: int) -> list[int]:
    return list(range(count))


def square(number: int) -> dict[str, int]:
    return {"number": number, "square": number * number}


async def sum_up(squares: list[dict[str, int]]) -> int:
    return sum(each["square"] for each in squares)


def add(left: int, right: int) -> int:
    return left + right


def publish(total: int, context: Any) -> dict[str, Any]:
    """Has an effect: a line in `published.log`."""
    with open(Path(context.project) / "published.log", "a", encoding="utf-8") as log:
        log.write(f"{total}\n")
    return {"published": total, "bytes": b"\x00\xff", "none": None, "share": 0.5}


def unreliable(context: Any) -> str:
    if context.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return "at last"


def broken() -> None:
    raise ValueError("this never works")


def report(**parts: Any) -> dict[str, Any]:
    return parts
