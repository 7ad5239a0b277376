"""A repository of 1,000 files that is the same everywhere: sources, tests and documents made from a seed.

It is for the time that a run takes, not for what it finds: names and sentences are put together from lists.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["FILES", "make_repository"]

FILES = 1000
_COMMITS = 20
_ON_TOPIC = 0.1  # of the documents, that mention what the benchmark's feature is about
# fmt: off
_THINGS = [
    "request", "response", "session", "client", "server", "route", "handler", "header", "cookie", "token",
    "quota", "cache", "queue", "worker", "retry", "timeout", "buffer", "stream", "parser", "schema", "field",
    "record", "index", "query", "cursor", "page", "event", "metric", "logger", "config", "account", "order",
    "invoice", "payment", "address", "message", "channel", "upload", "download", "archive", "report",
    "template", "permission",
]
_DEEDS = [
    "open", "close", "read", "write", "send", "receive", "parse", "render", "load", "store", "update",
    "remove", "check", "validate", "encode", "decode", "start", "stop", "wait", "retry", "count", "merge",
    "split", "sort", "filter", "resolve", "register", "publish", "subscribe", "flush",
]
# fmt: on
_SAYINGS = (
    "Raises an error where the {a} is not known.",
    "Every {a} belongs to one {b}, and is closed with it.",
    "A {a} that waits for its {b} should have a timeout.",
    "The {b} must never be shared between two threads.",
    "See the {a} guide for how a {b} is made.",
    "Returns what the {b} has said, or nothing.",
    "Before the next {a} is taken, the {b} says what became of the last one.",
)


def make_repository(folder: Path, *, files: int = FILES, seed: int = 1) -> None:
    """Writes `files` files into `folder`, an empty directory, and commits them in 20 parts."""
    dice = random.Random(seed)
    _git(folder, "init", "--quiet")
    paths = list(_files(dice, files))
    part = -(-files // _COMMITS)
    for number in range(0, files, part):
        for path, text in paths[number : number + part]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        _git(folder, "add", "--all")
        _git(folder, "commit", "--quiet", "-m", _subject(dice))


def _files(dice: random.Random, files: int) -> Iterator[tuple[str, str]]:
    """Of ten: seven modules, two tests, one document; and one file of settings."""
    yield "pyproject.toml", '[project]\nname = "generated"\nversion = "1.0"\ndependencies = ["httpx>=0.27"]\n'
    for number in range(1, files):
        thing, folder = dice.choice(_THINGS), _THINGS[number % 17]
        if number % 10 == 0:
            yield f"docs/{folder}/{thing}_{number}.md", _document(dice, thing)
        elif number % 10 in (3, 6):
            yield f"tests/{folder}/test_{thing}_{number}.py", _module(dice, thing, "test_")
        else:
            yield f"src/{folder}/{thing}_{number}.py", _module(dice, thing, "")


def _module(dice: random.Random, thing: str, prefix: str) -> str:
    lines = [f'"""The {thing}: {_saying(dice)}"""', "", "import logging", "from typing import Any", ""]
    for number in range(dice.randrange(4, 16)):
        name = f"{prefix}{dice.choice(_DEEDS)}_{dice.choice(_THINGS)}_{number}"
        one, other = dice.choice(_THINGS), dice.choice(_THINGS)
        lines += ["", f"def {name}({one}: Any, {other}: Any = None) -> Any:", f'    """{_saying(dice)}"""']
        lines += [f"    if {one} is None:", f'        raise ValueError("no {one} was given")']
        lines += [f"    # {_saying(dice)}", f'    logging.debug("%s", {one})']
        for step in range(dice.randrange(1, 6)):
            lines.append(f"    {other} = {dice.choice(_DEEDS)}_{dice.choice(_THINGS)}_{step}({one}, {other})")
        lines += [f"    return {other}", ""]
    return "\n".join(lines)


def _document(dice: random.Random, thing: str) -> str:
    parts = [f"# The {thing}", ""]
    if dice.random() < _ON_TOPIC:
        parts += [
            "Calls of the public API beyond the rate limit of an account are refused with status 429.",
            "",
        ]
    for _ in range(dice.randrange(4, 10)):
        parts += [f"## How to {dice.choice(_DEEDS)} a {dice.choice(_THINGS)}", ""]
        parts += [" ".join(_saying(dice) for _ in range(dice.randrange(3, 8))), ""]
    return "\n".join(parts)


def _saying(dice: random.Random) -> str:
    return dice.choice(_SAYINGS).format(a=dice.choice(_THINGS), b=dice.choice(_THINGS))


def _subject(dice: random.Random) -> str:
    return f"{dice.choice(_DEEDS).capitalize()} the {dice.choice(_THINGS)} of each {dice.choice(_THINGS)}"


def _git(folder: Path, *arguments: str) -> None:
    who = {f"GIT_{role}_{what}": "bench" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, **who}
    subprocess.run(["git", *arguments], cwd=folder, env=environ, check=True)
