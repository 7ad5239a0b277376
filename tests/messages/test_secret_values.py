"""Known values are found in each form that a program may write them in."""

from __future__ import annotations

import base64
import html
import json
import shlex
import urllib.parse
from collections.abc import Callable

import pytest
from secret_samples import Draw

from sage_actors.messages.secret_values import KnownValues, forms_of, hand_over, take_over

pytestmark = pytest.mark.requirement("ORCH-016")
VALUES = [
    "tr0ub4dor&3",
    'it\'s-"both"-quotes',
    'quote"back\\slash',
    "pässwörd/with space",
    "s3cret",
    Draw(7).word(40),
]

ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "raw": lambda raw: raw.decode(),
    "JSON": lambda raw: json.dumps({"x": raw.decode()}),
    "JSON, not ASCII": lambda raw: json.dumps({"x": raw.decode()}, ensure_ascii=False),
    "JSON in JSON": lambda raw: json.dumps(json.dumps({"x": raw.decode()})),
    "URL": lambda raw: "?q=" + urllib.parse.quote(raw.decode(), safe="") + "&b=1",
    "URL, slashes kept": lambda raw: urllib.parse.quote(raw.decode()),
    "form": lambda raw: urllib.parse.urlencode({"q": raw.decode()}),
    "hex": lambda raw: raw.hex(),
    "HEX": lambda raw: raw.hex().upper(),
    "base64": lambda raw: base64.b64encode(raw).decode(),
    "base64url": lambda raw: base64.urlsafe_b64encode(raw).decode(),
    "base64 of user:value": lambda raw: base64.b64encode(b"user:" + raw).decode(),
    "HTML": lambda raw: html.escape(raw.decode()),
    "Python": lambda raw: repr([raw.decode()]),
    "Python's bytes": repr,
    "shell": lambda raw: f"set -- {shlex.quote(raw.decode())}",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("value", VALUES)
def test_a_known_value_is_found_in_each_encoding(value: str, encoding: str) -> None:
    known = KnownValues()
    known.add([("env.X", value)])
    written = ENCODINGS[encoding](value.encode())
    assert [name for _, _, name in known.spans(f"before {written} behind")] == ["env.X"]
    assert known.is_in(f"before {written} behind".encode())


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("behind", range(4))
def test_base64_of_longer_data_shows_it_at_each_alignment(before: int, behind: int) -> None:
    known = KnownValues()
    known.add([("env.X", VALUES[0])])
    data = b"a" * before + VALUES[0].encode() + b"z" * behind
    assert known.spans(base64.b64encode(data).decode())
    assert known.spans(base64.urlsafe_b64encode(data).decode())


def test_the_lines_of_a_long_value_are_known_too() -> None:
    draw = Draw(3)
    body = [draw.word(64) for _ in range(4)]
    known = KnownValues()
    known.add([("env.PEM", "\n".join(["-----BEGIN A-----", *body, "-----END A-----"]))])
    assert known.spans(f"line 3 is {body[2]}")
    assert not known.spans("-----BEGIN A-----")


def test_very_short_values_are_not_looked_for() -> None:
    known = KnownValues()
    known.add([("env.X", "short"), ("env.Y", "")])
    assert not known
    assert not known.is_in(b"short")


def test_every_form_is_long_enough_not_to_match_by_chance() -> None:
    assert all(len(form) >= 6 for value in VALUES for form in forms_of(value))


def test_old_values_are_forgotten_after_256_new_ones() -> None:
    known = KnownValues()
    known.add((f"env.X{i}", f"value-{i:04}") for i in range(1))
    known.add((f"env.Y{i}", f"other-{i:04}") for i in range(300))
    assert not known.spans("value-0000")
    assert known.spans("other-0299")


def test_a_new_value_of_a_name_does_not_drop_the_one_before() -> None:
    known = KnownValues()
    known.add([("env.X", "first-value")])
    known.add([("env.X", "second-value")])
    assert known.spans("first-value")
    assert known.spans("second-value")


def test_arguments_are_handed_over_with_their_secrets() -> None:
    packed = b"\x81\xa1a\x01"
    assert take_over(packed) == (packed, [])
    assert take_over(hand_over(packed, [("env.X", "value")])) == (packed, [("env.X", "value")])
