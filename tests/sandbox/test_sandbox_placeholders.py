"""Placeholders keep the place of what is missing, and go when nobody needs them and nobody used them."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

import pytest
from sandbox_harness import become, run

from sage_actors.sandbox.placeholders import make_placeholders, remove_placeholders
from sage_actors.sandbox.profile import PLACEHOLDER_MODE

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project."""
    return tmp_path


def test_a_placeholder_that_was_used_or_replaced_stays(place: Path) -> None:
    used, replaced, held = (f"{place}/{name}" for name in ("used", "replaced", "held"))
    made = make_placeholders([str(place)], [used, replaced])
    Path(used, "file").touch()
    os.rmdir(replaced)
    os.mkdir(replaced)
    remove_placeholders([[path, device, inode + 10**9 * (path == replaced)] for path, device, inode in made])
    assert sorted(os.listdir(place)) == ["replaced", "used"]
    make_placeholders([str(place)], [held])
    kept = os.stat(held)
    remove_placeholders([[held, kept.st_dev, kept.st_ino]])  # this process still holds it
    assert os.path.isdir(held)


def test_the_placeholders_of_a_killed_run_are_taken_over(place: Path) -> None:
    path = str(place / ".claude")
    os.mkdir(path)
    os.chmod(path, PLACEHOLDER_MODE)
    taken = make_placeholders([str(place)], [path, str(place / ".claude/skills")])
    assert {each[0] for each in taken} == {path}


def test_an_empty_directory_of_the_user_is_no_placeholder(place: Path) -> None:
    (place / ".claude").mkdir()
    assert make_placeholders([str(place)], [str(place / ".claude")]) == []


def test_one_that_another_run_removes_in_the_same_moment_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(place / ".claude")
    made = make_placeholders([str(place)], [path])
    real, times = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        times.append(operation)
        if len(times) == 1:
            os.rmdir(path)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    again = make_placeholders([str(place)], [path])
    assert times == [fcntl.LOCK_SH, fcntl.LOCK_SH]
    assert again[0][2] == os.stat(path).st_ino
    assert made[0][0] == path


def test_a_directory_that_nobody_may_write_needs_none(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become someone else")
    (place / "foreign").mkdir(mode=0o755)
    for above in (place, *place.parents[:2]):
        above.chmod(0o755)

    def inside(_: int) -> bytes:
        become(1000)
        return str(make_placeholders([str(place / "foreign")], [str(place / "foreign/.claude")])).encode()

    assert run(inside) == b"[]"


def test_one_that_is_needed_and_cannot_be_made_is_an_error(place: Path) -> None:
    with pytest.raises(OSError, match="name too long"):
        make_placeholders([str(place)], [str(place / ("x" * 300))])


def test_below_a_file_there_is_none(place: Path) -> None:
    (place / ".git").write_text("gitdir: elsewhere")
    assert make_placeholders([str(place)], [str(place / ".git/hooks")]) == []
