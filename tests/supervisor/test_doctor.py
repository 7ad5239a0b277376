"""The doctor: says what works because it tried, and finds what does not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import CommandLine

from sage_actors.sandbox import probe as probe_module
from sage_actors.sandbox.probe import Report, probe
from sage_actors.supervisor.setup import doctor
from sage_actors.supervisor.setup.doctor import Check, table


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.close()


def _check(checks: list[dict[str, str]], name: str) -> dict[str, str]:
    return next(check for check in checks if check["name"] == name)


@pytest.mark.slow
def test_a_healthy_machine_passes_every_check(sage: CommandLine) -> None:
    report = json.loads(sage("doctor", "--json").stdout)
    assert report["ok"] is True
    failed = [check for check in report["checks"] if check["status"] == "failed"]
    assert failed == []
    assert "answered" in _check(report["checks"], "worker process")["detail"]
    assert "all gone" in _check(report["checks"], "orphans")["detail"]
    assert _check(report["checks"], "key")["status"] == "warning"  # there is none, and it made none
    assert not (sage.home / "config").exists()
    names = {each["name"] for each in report["sandbox"]["promises"] if each["holds"]}
    assert report["sandbox"]["tier"] != "namespaces" or len(names) == 10


@pytest.mark.slow
def test_a_broken_key_and_an_open_socket_directory_are_found_and_exit_1(sage: CommandLine) -> None:
    (sage.runtime / "sage-actors").mkdir()
    (sage.runtime / "sage-actors").chmod(0o777)
    done = sage("doctor", code=1, environ={"SAGE_STATE_KEY": "sak1-typo"})
    assert "FAIL  key" in done.stdout
    assert "typo" not in done.stdout
    assert "1 of 13 checks failed" in done.stdout


def test_a_state_directory_that_is_a_link_fails(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".sage").symlink_to("elsewhere")
    check = doctor._try("state directory", lambda: doctor._state_directory(tmp_path))
    assert check.status == "failed"
    assert "link" in check.detail


def test_fsync_and_flock_are_tried(tmp_path: Path) -> None:
    doctor._state_directory(tmp_path)
    assert "fdatasync takes" in doctor._durable(tmp_path)
    assert os.listdir(tmp_path / ".sage/state") == ["locks"]


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE_BYTES", 1 << 62)
    check = doctor._try("disk space", lambda: doctor._space(tmp_path))
    assert check.status == "warning"
    assert "prune" in check.hint


def test_a_check_that_breaks_is_a_failed_check_not_a_traceback() -> None:
    def burst() -> str:
        raise RuntimeError("burst")

    assert doctor._try("x", burst).detail == "RuntimeError: burst"


def test_an_orphan_that_lives_on_is_reported_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    monkeypatch.setattr(doctor, "_ORPHAN_S", 0.05)
    held = tmp_path / "held"
    with subprocess.Popen([sys.executable, "-c", f"{doctor._SPAWN}", str(held)]):
        assert doctor._wait(held.exists, 10)
    check = doctor._try("orphans", lambda: doctor._see_end(held))
    assert check.status == "failed"
    assert "outlived" in check.detail
    assert not held.exists()


@pytest.mark.parametrize(("mode", "status"), [("enforce", "ok"), ("degrade", "ok"), ("off", "warning")])
def test_the_sandbox_s_mode_is_told(mode: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_SANDBOX", mode)
    if probe().tier == "none":
        pytest.skip(probe().reason)
    check = doctor._try("sandbox", doctor._sandbox)
    assert check.status == status
    assert f"mode {mode}" in check.detail


@pytest.mark.parametrize(("mode", "status"), [("enforce", "failed"), ("degrade", "warning")])
def test_a_machine_that_can_confine_nothing_fails_or_warns_as_the_mode_says(
    mode: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Report("none", (probe_module.Check("namespaces", False, "unshare: EPERM"),), ())
    monkeypatch.setattr(probe_module, "probe", lambda: nothing)
    monkeypatch.setenv("SAGE_SANDBOX", mode)
    check = doctor._try("sandbox", doctor._sandbox)
    assert check.status == status
    assert "unshare: EPERM" in check.detail


def test_the_table_puts_what_to_do_under_what_needs_it() -> None:
    text = table([Check("one", "ok", "fine"), Check("longer", "failed", "broken", "mend it")])
    assert text.splitlines() == [
        "ok    one     fine",
        "FAIL  longer  broken",
        "              -> mend it",
        "1 of 2 checks failed.",
    ]
