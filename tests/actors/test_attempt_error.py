"""The traceback of a failed attempt: as Python prints it, and made of remembered frames."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_actors.actors.operations import attempt_error
from sage_actors.actors.operations.attempt_error import describe_error


def _parse(text: str) -> int:
    return {"a": [int(text)]}["a"][0] + len(text[99])


def _again(depth: int) -> int:
    return _again(depth - 1) if depth else _parse("x")


def _caused() -> None:
    try:
        _parse("x")
    except ValueError as cause:
        try:
            _parse("1")
        except IndexError:
            error = RuntimeError("both")
            error.add_note("a note")
            raise error from cause


def _group() -> None:
    errors = []
    for text in ("x", "1"):
        try:
            _parse(text)
        except (ValueError, IndexError) as error:
            errors.append(error)
    raise ExceptionGroup("several", errors)


def _no_syntax() -> None:
    compile("a = = 1", "written", "exec")


def _error_of(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - what a test raises
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "function",
    [lambda: _parse("x"), lambda: _parse("1"), lambda: _again(9), _caused, _group, _no_syntax],
    ids=["first", "another place of a line", "repeated", "caused", "group", "syntax"],
)
def test_a_traceback_is_what_python_prints_each_time(function: Callable[[], object]) -> None:
    for _ in range(2):
        error = _error_of(function)
        assert describe_error(error)["traceback"] == "".join(traceback.format_exception(error))


def test_places_that_are_remembered_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_error, "_MOST_FRAMES", 5)
    module: dict[str, Callable[[], object]] = {}
    source = "".join(f"def fail_{number}():\n    1 / 0\n" for number in range(20))
    (tmp_path / "many.py").write_text(source)
    exec(compile(source, str(tmp_path / "many.py"), "exec"), module)
    for number in range(20):
        error = _error_of(module[f"fail_{number}"])
        assert describe_error(error)["traceback"] == "".join(traceback.format_exception(error))
        assert len(attempt_error._Frames._texts) <= 5
