"""What is saved, as an attacker sees it: nonces, mutations, modes, links, owners, and keys in no process but one."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import CommandLine
from pool_harness import wait_until
from test_journal import KEYS, RecordingAESGCM, cut, plaintexts, write_segment

from sage_actors import Supervisor, Workflow
from sage_actors.actors.keys.key_file import create_key_file, read_key_file
from sage_actors.actors.keys.provider import format_key, load_keys
from sage_actors.actors.pool.watch import descendants_of
from sage_actors.actors.state import journal_format
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal_reader import segment_path
from sage_actors.messages.errors import KeyUnusableError, SageError, StateError

pytestmark = pytest.mark.requirement("ORCH-016")

_AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
_ANOTHER_USER = 1000


# ------------------------------------------------------------------ sealed bytes


def test_no_key_and_nonce_pair_twice_over_every_torn_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image that a crash can leave of a small journal, each resumed twice: as a restored backup would be."""
    RecordingAESGCM.used = []
    monkeypatch.setattr(journal_format, "AESGCM", RecordingAESGCM)
    image = tmp_path / "image"
    write_segment(image, [b"first", b"second"])
    whole = segment_path(image, 1).stat().st_size
    resumed = 0
    for length in range(journal_format.HEADER_BYTES, whole + 1):
        for attempt in range(2):
            directory = tmp_path / f"{length}-{attempt}"
            shutil.copytree(image, directory)
            cut(segment_path(directory, 1), length)
            write_segment(directory, [b"other %d" % attempt])
            resumed += 1
    assert resumed == 2 * (whole + 1 - journal_format.HEADER_BYTES) > 130
    assert len(RecordingAESGCM.used) == 2 + resumed
    assert len(set(RecordingAESGCM.used)) == len(RecordingAESGCM.used)


def _mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One of the things that a disk or an attacker does to a file."""
    at, length = chance.randrange(len(data)), chance.randrange(1, 60)
    piece = data[at : at + length]
    to = chance.randrange(len(data))
    return chance.choice(
        (
            lambda: data[:at] + bytes((data[at] ^ (1 << chance.randrange(8)),)) + data[at + 1 :],
            lambda: data[:at] + chance.randbytes(len(piece)) + data[at + length :],
            lambda: data[:at] + bytes(len(piece)) + data[at + length :],
            lambda: data[:at],
            lambda: data[:at] + data[at + length :],
            lambda: data[:at] + piece + data[at:],
            lambda: data[:to] + piece + data[to + len(piece) :],
            lambda: data[:at] + other[at:],
            lambda: other[:at] + data[at:],
            lambda: data + chance.randbytes(length),
            lambda: data + bytes(length),
        )
    )()


@pytest.fixture
def quick_directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: some disks take milliseconds to truncate a file."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="sage-") as name:
        yield Path(name)


def test_three_thousand_mutations_give_a_prefix_or_a_clear_error(quick_directory: Path) -> None:
    frames = [b"admitted", b"started", b"x" * 300, b"done"]
    directory, elsewhere = quick_directory / "run", quick_directory / "other"
    for number in range(2):
        write_segment(directory, frames[number * 2 : number * 2 + 2])
        write_segment(elsewhere, [b"another run's", b"frames"], run=b"another-uuid-16b")
    sound = {number: segment_path(directory, number).read_bytes() for number in (1, 2)}
    foreign = segment_path(elsewhere, 1).read_bytes()
    chance = random.Random(20260131)
    refused = healed = unclear = 0
    for _ in range(3000):
        number = chance.choice((1, 2))
        mutated = _mutated(sound[number], chance.choice((foreign, sound[3 - number])), chance)
        if mutated == sound[number]:
            continue
        path = segment_path(directory, number)
        path.write_bytes(mutated)
        got: list[bytes] = []
        try:
            got = plaintexts(directory)
            healed += 1
        except StateError as error:
            refused += 1
            unclear += "journal-" not in str(error)
        assert got == frames[: len(got)], "never a wrong plaintext"
        path.write_bytes(sound[number])
    assert unclear == 0, "every error names the file"
    assert refused > 2000
    assert healed > 50
    assert plaintexts(directory) == frames


# ------------------------------------------------------------------ modes, links, owners


@pytest.fixture(params=[0o000, 0o077], ids=["umask 000", "umask 077"])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.usefixtures("any_umask")
def test_whatever_a_run_leaves_is_private_under_any_umask(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir(mode=0o755)
    flow = Workflow("private")
    flow.add("wait", id="a", seconds=0)
    with Supervisor(project) as supervisor:
        for run_id in ("first", "archived"):
            assert supervisor.run(flow, run_id=run_id, timeout=60).status == "succeeded"
        assert supervisor.run(flow, run_id="archived", fresh=True, timeout=60).status == "succeeded"
        supervisor.keys()
    sage = project / ".sage"
    assert sage.stat().st_mode & 0o022 == 0, "nobody else puts anything there"
    found = [path for path in sage.rglob("*") if path != sage / ".gitignore"]
    assert {path.name for path in found} >= {"state", "first", "journal-000001.sage", "archive", "locks"}
    for path in found:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == expected, path
    key = Path(os.environ["XDG_CONFIG_HOME"]) / "sage-actors"
    assert stat.S_IMODE(key.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in key.iterdir()} == {0o600}


@pytest.mark.parametrize("part", [".sage", ".sage/state", ".sage/state/locks", ".sage/state/archive"])
@pytest.mark.parametrize("kind", ["link", pytest.param("foreign", marks=_AS_ROOT)])
def test_a_state_directory_that_somebody_else_decides_about_is_refused(
    tmp_path: Path, part: str, kind: str
) -> None:
    state = StateDirectory(tmp_path)
    path = tmp_path / part
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir(parents=True)
        os.chown(path, _ANOTHER_USER, -1)
    with pytest.raises(StateError, match="is a link" if kind == "link" else "belongs to user 1000"):
        state.create()


@pytest.mark.parametrize("kind", ["link", pytest.param("foreign", marks=_AS_ROOT)])
def test_a_run_that_somebody_else_decides_about_is_refused(tmp_path: Path, kind: str) -> None:
    state = StateDirectory(tmp_path)
    state.create()
    write_segment(state.run_dir("sound"), [b"one"])
    if kind == "link":
        state.run_dir("r").symlink_to(state.run_dir("sound"))
    else:
        write_segment(state.run_dir("r"), [b"one"])
        os.chown(state.run_dir("r"), _ANOTHER_USER, -1)
    with pytest.raises(StateError, match="is a link" if kind == "link" else "belongs to user 1000"):
        state.run_dir("r")


@_AS_ROOT
def test_a_segment_of_another_user_is_refused(tmp_path: Path) -> None:
    write_segment(tmp_path, [b"one"])
    os.chown(segment_path(tmp_path, 1), _ANOTHER_USER, -1)
    with pytest.raises(StateError, match="belongs to user 1000"):
        plaintexts(tmp_path)


def test_a_second_name_of_a_segment_gives_nobody_a_way_in(tmp_path: Path) -> None:
    """Backups link files: that is no reason to refuse. What is written through the other name is found, and no
    process ever appends to a segment that it did not make."""
    directory = tmp_path / "run"
    write_segment(directory, [b"one", b"two"])
    other = tmp_path / "backup"
    other.hardlink_to(segment_path(directory, 1))
    assert plaintexts(directory) == [b"one", b"two"]
    data = other.read_bytes()
    write_segment(directory, [b"three"])
    assert other.read_bytes() == data
    other.write_bytes(data[:-20] + b"\x01" + data[-19:])
    with pytest.raises(StateError):
        plaintexts(directory)


@_AS_ROOT
def test_a_key_file_in_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config" / "state.key"
    create_key_file(path)
    os.chown(path.parent, _ANOTHER_USER, -1)
    with pytest.raises(KeyUnusableError, match="belongs to user 1000"):
        read_key_file(path)


def test_of_two_writers_of_one_run_the_second_is_refused(tmp_path: Path) -> None:
    flow = Workflow("held")
    flow.add("approval", id="a", message="go?")
    with Supervisor(tmp_path) as first, Supervisor(tmp_path) as second:
        run = first.start(flow, run_id="r")
        with pytest.raises(SageError) as caught:
            second.start(flow, run_id="r")
        assert caught.value.exit_code == 3
        run.cancel()
        run.result(60)


# ------------------------------------------------------------------ the key, in one process only

_SECRET = random.Random(7).randbytes(32)
_FORMS = {
    "raw": _SECRET,
    "base64": base64.b64encode(_SECRET).rstrip(b"=")[:42],
    "URL-safe base64": base64.urlsafe_b64encode(_SECRET).rstrip(b"=")[:42],
    "hex": _SECRET.hex().encode(),
    "HEX": _SECRET.hex().upper().encode(),
}


def _found_in(pid: int) -> dict[str, set[str]]:
    """Where in /proc/PID the key shows, and in which forms."""
    found: dict[str, set[str]] = {}
    for name in ("environ", "cmdline"):
        data = Path(f"/proc/{pid}/{name}").read_bytes()
        found[name] = {form for form, text in _FORMS.items() if text in data}
    found["memory"] = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, _, _, inode, *_ = line.split()
            start, end = (int(each, 16) for each in span.split("-"))
            if not mode.startswith("r") or "[v" in line or (inode != "0" and "w" not in mode):
                continue
            try:
                memory.seek(start)
                data = memory.read(end - start) or b""
            except (OSError, OverflowError):
                continue
            found["memory"] |= {form for form, text in _FORMS.items() if text in data}
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="memory is read through /proc")
@_AS_ROOT
def test_no_child_of_a_supervisor_has_the_key_anywhere(tmp_path: Path) -> None:
    """Keeper, workers, a command and its own child: their environment, arguments and memory. The supervisor's own
    memory shows that this scan finds a key where there is one."""
    sage = CommandLine(tmp_path)
    sage.environ["SAGE_STATE_KEY"] = format_key(_SECRET)
    (sage.project / "steps.py").write_text(
        "import time\nfrom pathlib import Path\ndef hold():\n    Path('held').touch(); time.sleep(60)\n"
    )
    flow = sage.flow(
        {"id": "hold", "type": "python", "call": "steps:hold"},
        {"id": "command", "type": "shell", "command": "touch commanded; sleep 60"},
        {"id": "bad", "type": "shell", "command": "exit 3", "on_failure": "continue"},
    )
    process = sage.start("run", flow)
    try:
        wait_until(
            lambda: all((sage.project / each).exists() for each in ("held", "commanded")), timeout_s=40
        )
        assert _found_in(process.pid)["memory"] >= {"raw"}
        below = descendants_of(process.pid)
        assert len(below) >= 3
        for pid in below:
            assert not any(_found_in(pid).values()), Path(f"/proc/{pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        out, err = process.communicate(timeout=30)
        sage.close()
    written = b"".join(path.read_bytes() for path in (sage.project / ".sage").rglob("*") if path.is_file())
    for data in (out.encode(), err.encode(), written):
        assert not [form for form, text in _FORMS.items() if text in data]


def test_a_crash_of_a_process_that_has_the_key_leaves_it_nowhere(tmp_path: Path) -> None:
    """An unhandled error prints its traceback, with the local variables of every frame, and aborts."""
    code = (
        "import os, sys, traceback\n"
        "from sage_actors.actors.state.journal import JournalWriter\n"
        "from sage_actors.actors.keys.provider import load_keys\n"
        "from pathlib import Path\n"
        "keys = load_keys()\n"
        "try:\n"
        "    JournalWriter.create(Path(sys.argv[1]) / 'file' / 'run', keys, run_uuid=b'short', previous=None)\n"
        "except Exception as error:\n"
        "    told = traceback.TracebackException.from_exception(error, capture_locals=True)\n"
        "    print(''.join(told.format()), flush=True)\n"
        "os.abort()\n"
    )
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "SAGE_STATE_KEY": format_key(_SECRET)},
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == -6
    assert b"JournalWriter" in done.stdout
    shown = done.stdout + done.stderr
    assert not [form for form, text in _FORMS.items() if text in shown]
    assert repr(_SECRET)[2:20].encode() not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "no core file"


def test_loading_keys_hands_none_to_json(tmp_path: Path) -> None:
    ring = load_keys(environ={"SAGE_STATE_KEY": format_key(_SECRET)})
    with pytest.raises(TypeError):
        json.dumps(ring)
    assert KEYS.primary.secret not in repr(ring).encode()
