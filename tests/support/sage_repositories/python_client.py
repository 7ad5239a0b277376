"""A Python library with a bug: a client for parcel tracking, with retries, a command line and a change log."""

from __future__ import annotations

from pathlib import Path

from sage_repositories.history import ADA, BO, CHE, Change, replay

__all__ = ["ERROR", "make_python_client"]

_PYPROJECT = """\
[project]
name = "parceltrack"
version = "0.4.0"
description = "Tracks parcels of several carriers through one public API"
requires-python = ">=3.10"
license = "MIT"
dependencies = ["httpx>=0.27", "tenacity>=8"]

[project.scripts]
parceltrack = "parceltrack.cli:main"

[tool.pytest.ini_options]
testpaths = ["tests"]

[tool.ruff]
line-length = 100
"""
_CLIENT = '''\
"""The public API: a client that asks carriers where a parcel is."""

from __future__ import annotations

from typing import Any

from parceltrack.errors import CarrierError, TooManyRequests
from parceltrack.retry import RetryPolicy
from parceltrack.transport import Transport


class Client:
    """Asks carriers. One client may be shared by threads."""

    def __init__(self, transport: Transport, retry: RetryPolicy | None = None) -> None:
        self.transport = transport
        self.retry = retry or RetryPolicy()
        self.hooks: list[Any] = []

    def add_hook(self, hook: Any) -> None:
        """Calls `hook(request)` before each request is sent."""
        self.hooks.append(hook)

    def track(self, number: str) -> dict[str, Any]:
        """Where parcel `number` is.

        Raises:
            CarrierError: the carrier knows no such parcel.
            TooManyRequests: the carrier wants fewer requests.
        """
        for attempt in range(self.retry.attempts):
            for hook in self.hooks:
                hook({"number": number, "attempt": attempt})
            status, body = self.transport.get(f"/parcels/{number}")
            if status == 200:
                return parse_parcel(body)
            if status == 429 and attempt + 1 == self.retry.attempts:
                raise TooManyRequests(f"{number}: the carrier wants fewer requests")
            if status == 404:
                raise CarrierError(f"no parcel {number}")
        raise CarrierError(f"{number}: no answer after {self.retry.attempts} attempts")


def parse_parcel(body: dict[str, Any]) -> dict[str, Any]:
    """A parcel from a carrier's answer."""
    # TODO: carriers in Poland leave the carrier's name out of returned parcels
    return {"number": body["number"], "carrier": body["carrier"]["name"], "events": body.get("events", [])}
'''
_ERRORS = '''\
"""What can go wrong."""


class ParcelError(Exception):
    """The root of all errors."""


class CarrierError(ParcelError):
    """The carrier said no."""


class TooManyRequests(ParcelError):
    """The carrier limits the rate of requests."""
'''
_RETRY = '''\
"""When a request is sent again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """At most `attempts` in all, with `backoff_s` seconds between two."""

    attempts: int = 3
    backoff_s: float = 0.5
'''
_TRANSPORT = '''\
"""How requests travel."""

from __future__ import annotations

import os
from typing import Any, Protocol

BASE_URL = os.environ.get("PARCELTRACK_URL", "https://carriers.example/v1")


class Transport(Protocol):
    """Sends one request and gives its status and body."""

    def get(self, path: str) -> tuple[int, dict[str, Any]]: ...
'''
_CLI = '''\
"""The command `parceltrack`."""

from __future__ import annotations

import sys

from parceltrack.client import parse_parcel


def main(arguments: list[str] | None = None) -> int:
    """Prints the carrier of each parcel named."""
    for number in arguments if arguments is not None else sys.argv[1:]:
        print(parse_parcel({"number": number, "carrier": {"name": "unknown"}})["carrier"])
    return 0
'''
_TESTS = """\
import pytest

from parceltrack.client import Client, parse_parcel
from parceltrack.errors import CarrierError, TooManyRequests
from parceltrack.retry import RetryPolicy


class Answers:
    def __init__(self, *answers):
        self.answers = list(answers)

    def get(self, path):
        return self.answers.pop(0)


def test_a_parcel_is_found():
    body = {"number": "1", "carrier": {"name": "post"}}
    assert Client(Answers((200, body))).track("1")["carrier"] == "post"


def test_an_unknown_parcel_is_an_error():
    with pytest.raises(CarrierError):
        Client(Answers((404, {}))).track("1")


def test_the_rate_limit_of_a_carrier_is_told():
    with pytest.raises(TooManyRequests):
        Client(Answers((429, {}), (429, {})), RetryPolicy(attempts=2)).track("1")


def test_returned_parcel_has_no_carrier():
    assert parse_parcel({"number": "1"})["carrier"] is None
"""
_DOCS = """\
# Limits of the public API

Carriers answer at most 10 requests a second for one key, and 429 beyond that.

A client should never send more than that: wait before the request rather than retry after it.
Rate limiting belongs into a hook (`Client.add_hook`), so that every transport has it.

## Errors

All errors derive from `ParcelError`. An error must name the parcel.
"""
_CI = """\
name: ci
on: [push]
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: python -m pip install -e .
      - run: python -m pytest -q
      - run: ruff check .
"""

ERROR = """\
Traceback (most recent call last):
  File "tests/test_client.py", line 32, in test_returned_parcel_has_no_carrier
    assert parse_parcel({"number": "1"})["carrier"] is None
  File "src/parceltrack/client.py", line 47, in parse_parcel
    return {"number": body["number"], "carrier": body["carrier"]["name"], "events": body.get("events", [])}
KeyError: 'carrier'
"""
"""What the failing test of this repository prints."""


def make_python_client(root: Path) -> Path:
    """The repository at `root`: seven commits by three authors; one test of it fails."""
    package = "src/parceltrack"
    return replay(
        root,
        [
            Change(
                "Start with the client and its errors",
                ADA,
                {
                    "pyproject.toml": _PYPROJECT,
                    "LICENSE": "MIT\n",
                    ".gitignore": "__pycache__/\n*.egg-info/\n",
                    f"{package}/__init__.py": '"""Tracks parcels."""\n',
                    f"{package}/errors.py": _ERRORS,
                    f"{package}/transport.py": _TRANSPORT,
                    f"{package}/retry.py": _RETRY.replace("attempts: int = 3", "attempts: int = 1"),
                    f"{package}/client.py": _CLIENT.replace('body.get("events", [])', 'body["events"]'),
                    "README.md": "# parceltrack\n\nTracks parcels of several carriers through one API.\n",
                },
            ),
            Change(
                "Add tests and run them in CI",
                BO,
                {
                    "tests/test_client.py": _TESTS.partition("\n\ndef test_returned")[0] + "\n",
                    ".github/workflows/ci.yml": _CI,
                },
            ),
            Change(
                "Fix KeyError when a carrier sends no events\n\nparse_parcel read body['events'] of every answer.",
                CHE,
                edits={f"{package}/client.py": ('body["events"]', 'body.get("events", [])')},
            ),
            Change(
                "Retry three times by default",
                ADA,
                edits={f"{package}/retry.py": ("attempts: int = 1", "attempts: int = 3")},
            ),
            Change("Describe the limits of the public API", BO, {"docs/limits.md": _DOCS}),
            Change(
                "Add the command line",
                ADA,
                {
                    f"{package}/cli.py": _CLI,
                    "CHANGELOG.md": "# Changes\n\n## 0.4.0\n\n- The command `parceltrack`\n- Three attempts\n",
                },
            ),
            Change("Show that returned parcels fail", CHE, {"tests/test_client.py": _TESTS}),
        ],
    )
