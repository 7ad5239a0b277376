"""Operations of type `shell`: values that are no text become text in one way, wherever a command takes text."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.shell import ShellRunner
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import UsageError

VALUE = {"b": 1, "ä": [None, True]}
COMPACT = '{"b":1,"ä":[null,true]}'


def run(project: Path, **config: Any) -> str:
    """What the command prints."""
    services: Any = SimpleNamespace(project=project, log=lambda key, text, stream: None)
    task = Task(
        (1, 1, 1, 0, "node", "run-7:uuid", None, pack({"config": config})), services, time.monotonic()
    )
    stdout = ShellRunner({"type": "shell"}, RunnerSettings(str(project))).run(task)["stdout"]
    assert isinstance(stdout, str)
    return stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [(VALUE, COMPACT), (True, "true"), (False, "false"), (0, "0"), (1.5, "1.5"), ("a b", "a b"), ([], "[]")],
)
def test_words_variables_and_input_have_the_same_text(tmp_path: Path, value: Any, text: str) -> None:
    assert run(tmp_path, command=["printf", "%s", value]) == text
    assert run(tmp_path, command='printf %s "$X"', env={"X": value}) == text
    assert run(tmp_path, command=["cat"], stdin=value) == text


def test_a_variable_that_is_null_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    command = 'printf %s "${NEW-unset} ${INHERITED-unset}"'
    assert run(tmp_path, command=command, env={"NEW": None, "INHERITED": None}) == "unset unset"


def test_input_that_is_null_is_none(tmp_path: Path) -> None:
    assert run(tmp_path, command=["cat"], stdin=None) == ""


@pytest.mark.parametrize("cwd", [True, 7, ["a"], {"a": 1}, b"a"])
def test_a_folder_that_is_no_text_is_refused(tmp_path: Path, cwd: Any) -> None:
    with pytest.raises(UsageError, match="`cwd`"):
        run(tmp_path, command=["pwd"], cwd=cwd)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"command": ["echo", b"\xff"]}, r"`command\[1\]`"),
        ({"command": ["true"], "env": {"X": b"\xff"}}, "`env.X`"),
        ({"command": ["cat"], "stdin": b"\xff"}, "`stdin`"),
    ],
)
def test_bytes_are_refused_with_their_place(tmp_path: Path, config: dict[str, Any], place: str) -> None:
    with pytest.raises(UsageError, match=place):
        run(tmp_path, **config)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"command": ["echo", "x" * 200_000]}, "command[1]"),
        ({"command": "echo " + "x" * 200_000}, "command"),
        ({"command": ["true"], "env": {"TEXT": "ü" * 100_000}}, "env.TEXT"),
    ],
)
def test_what_is_too_long_to_start_a_program_with_is_named(
    tmp_path: Path, config: dict[str, Any], place: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(f"`{place}` takes 200,00") + ".*by `stdin`"):
        run(tmp_path, **config)


@pytest.mark.parametrize(
    ("config", "place"),
    [
        ({"command": "echo a\0b"}, "`command`"),
        ({"command": ["echo", "a\0b"]}, r"`command\[1\]`"),
        ({"command": ["true"], "env": {"X": "a\0b"}}, "`env.X`"),
    ],
)
def test_a_nul_character_is_refused_with_its_place(
    tmp_path: Path, config: dict[str, Any], place: str
) -> None:
    with pytest.raises(UsageError, match=place):
        run(tmp_path, **config)
