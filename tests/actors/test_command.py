"""Commands that are cut short while they start."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_harness import pid_exists, read_pid, wait_until

from sage_actors.actors.operations import command
from sage_actors.actors.operations.context import OperationTerminated


@pytest.fixture
def terminating() -> Iterator[None]:
    """SIGTERM raises, as in a worker."""

    def handle(*_: object) -> None:
        raise OperationTerminated

    before = signal.signal(signal.SIGTERM, handle)
    yield
    signal.signal(signal.SIGTERM, before)


def run(arguments: list[str], cwd: Path) -> command.CommandOutput:
    return command.run_command(arguments, cwd=str(cwd), env=dict(os.environ))


def test_a_termination_while_the_command_starts_ends_it_with_its_trap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminating: None
) -> None:
    """A loaded machine: the command runs before its parent knows its process."""
    start = command._start

    def start_slowly(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        wait_until((tmp_path / "pid").exists)
        signal.raise_signal(signal.SIGTERM)
        return process

    monkeypatch.setattr(command, "_start", start_slowly)
    script = "trap 'echo end > trapped; exit' TERM; echo $$ > pid.new; mv pid.new pid; while :; do sleep 0.02; done"
    with pytest.raises(OperationTerminated):
        run(["/bin/sh", "-c", script], tmp_path)
    assert (tmp_path / "trapped").exists()
    assert not pid_exists(read_pid(tmp_path / "pid"))


def test_a_termination_during_a_start_that_fails_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminating: None
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        raise FileNotFoundError("no such program")

    monkeypatch.setattr(command, "_start", fail)
    with pytest.raises(OperationTerminated):
        run(["nothing"], tmp_path)


def test_the_handler_is_what_it_was(tmp_path: Path, terminating: None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(["/bin/echo", "hello"], tmp_path).stdout == "hello\n"
    with pytest.raises(FileNotFoundError):
        run([str(tmp_path / "missing")], tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
