"""The audit log: what is in it proves itself, whoever wrote it, whatever was done to it, wherever its writer died."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_actors.actors import faults
from sage_actors.actors.audit.files import LOG_NAME, log_files, read_tail, rotated_files
from sage_actors.actors.audit.format import AuditKeys, Head, canonical, parse_line, seal_line
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.audit.project import audit_project
from sage_actors.actors.audit.verify import Chain, verify_chain
from sage_actors.actors.keys.provider import KeyRing, MasterKey, format_key
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.disk import Disk
from sage_actors.messages.errors import AuditError, KeyUnusableError, StateError, StorageError

pytestmark = [pytest.mark.requirement("ORCH-016"), pytest.mark.requirement("ORCH-023")]

KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")
OTHER = KeyRing((MasterKey(bytes(range(100, 132))),), "environment")
RECORDS = 12


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


@pytest.fixture
def path(state: StateDirectory) -> Path:
    return state.root.parent / LOG_NAME


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    faults.disarm()


def write(state: StateDirectory, count: int = RECORDS, **options: Any) -> Head:
    """A log of so many records, the first of them its beginning; its head."""
    log = AuditLog(state, KEYS, **options)
    for number in range(count - (log.head is None)):
        log.append([{"event": "egress", "run": "r", "host": f"host-{number}"}])
    log.close()
    assert log.head is not None
    return log.head


def records(state: StateDirectory) -> list[dict[str, Any]]:
    """Every record of a log that proves itself."""
    found: list[dict[str, Any]] = []
    verify_chain(state, KEYS, watch=found.append)
    return found


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_record_says_who_did_what_when_to_which_run_in_one_chain(state: StateDirectory) -> None:
    log = AuditLog(state, KEYS, now=lambda: 1.5)
    log.record("run_deleted", "r1", host="a")
    first, second = records(state)
    assert (first["event"], first["seq"], first["prev"]) == ("log_begun", 0, "0" * 64)
    assert (second["event"], second["run"], second["host"], second["ts"]) == (
        "run_deleted",
        "r1",
        "a",
        1_500_000,
    )
    assert (second["pid"], second["actor"], second["seq"]) == (os.getpid(), "supervisor", 1)
    assert second["key"] == KEYS.primary.id.hex()
    assert verify_chain(state, KEYS).head == log.head
    log.close()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_log_is_private_under_any_umask(state: StateDirectory, path: Path, umask: int) -> None:
    before = os.umask(umask & 0o077)
    try:
        write(state)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ------------------------------------------------------------------ tampering


def _edit(all_lines: list[bytes]) -> None:
    all_lines[5] = all_lines[5].replace(b"host-4", b"host-9")


def _edit_mac(all_lines: list[bytes]) -> None:
    line = all_lines[5]
    all_lines[5] = line[:-4] + (b"0" if line[-4:-3] != b"0" else b"1") + line[-3:]


def _space(all_lines: list[bytes]) -> None:
    all_lines[5] = all_lines[5].replace(b'"event":', b'"event": ', 1)


def _twice_the_same_key(all_lines: list[bytes]) -> None:
    all_lines[5] = all_lines[5].replace(b'{"actor"', b'{"host":"host-4","actor"', 1)


def _another_order(all_lines: list[bytes]) -> None:
    fields = json.loads(all_lines[5])
    mac = fields.pop("mac")
    body = json.dumps(dict(reversed(fields.items())), separators=(",", ":"))
    all_lines[5] = f'{body[:-1]},"mac":"{mac}"}}\n'.encode()


def _resealed(all_lines: list[bytes]) -> None:
    """Edited, and sealed again with a key that somebody else holds and that names itself as ours."""
    fields = json.loads(all_lines[5])
    del fields["mac"]
    fields["host"] = "host-9"
    key = AuditKeys(OTHER).get(OTHER.primary.id.hex())
    assert key is not None
    all_lines[5] = seal_line(fields, key)[0]


def _of_another_key(all_lines: list[bytes]) -> None:
    fields = json.loads(all_lines[5])
    del fields["mac"]
    fields["key"] = OTHER.primary.id.hex()
    key = AuditKeys(OTHER).get(fields["key"])
    assert key is not None
    all_lines[5] = seal_line(fields, key)[0]


def _swap(all_lines: list[bytes]) -> None:
    all_lines[5], all_lines[6] = all_lines[6], all_lines[5]


TAMPERINGS: dict[str, tuple[Callable[[list[bytes]], Any], str]] = {
    "edited": (_edit, "altered"),
    "mac edited": (_edit_mac, "altered"),
    "whitespace": (_space, "canonical"),
    "a key twice": (_twice_the_same_key, "canonical"),
    "another order": (_another_order, "canonical"),
    "resealed": (_resealed, "altered"),
    "another key": (_of_another_key, "bring that key back"),
    "removed": (lambda all_lines: all_lines.pop(5), "chain is broken"),
    "first removed": (lambda all_lines: all_lines.pop(0), "missing"),
    "inserted": (lambda all_lines: all_lines.insert(5, all_lines[4]), "chain is broken"),
    "swapped": (_swap, "chain is broken"),
    "an empty line": (lambda all_lines: all_lines.insert(5, b"\n"), "no record"),
    "no JSON": (lambda all_lines: all_lines.insert(5, b"x" * 200 + b"\n"), "no record"),
    "another version": (
        lambda all_lines: all_lines.__setitem__(5, all_lines[5].replace(b'"v":1', b'"v":2')),
        "version",
    ),
    "deep nesting": (lambda all_lines: all_lines.insert(5, b"[" * 100_000 + b"\n"), "no record"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_and_its_line_named(state: StateDirectory, path: Path, name: str) -> None:
    write(state)
    tamper, reason = TAMPERINGS[name]
    changed = lines(path)
    tamper(changed)
    path.write_bytes(b"".join(changed))
    with pytest.raises(AuditError, match=reason) as caught:
        verify_chain(state, KEYS)
    place = 1 if name == "first removed" else 6
    assert f"{LOG_NAME}, line {place}:" in str(caught.value)
    assert caught.value.exit_code == 4


def test_each_single_byte_that_is_altered_is_found(state: StateDirectory, path: Path) -> None:
    write(state, 3)
    data = path.read_bytes()
    for at in range(len(data) - 1):  # without its last newline the last line is torn
        path.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
        with pytest.raises(AuditError):
            verify_chain(state, KEYS)


def test_lines_cut_off_the_end_are_found_against_a_known_head_alone(
    state: StateDirectory, path: Path
) -> None:
    head = write(state)
    verify_chain(state, KEYS, heads=[head])
    path.write_bytes(b"".join(lines(path)[:-1]))
    assert verify_chain(state, KEYS).head != head
    with pytest.raises(AuditError, match="cut or rolled back"):
        verify_chain(state, KEYS, heads=[head])


def test_a_log_made_anew_does_not_have_a_known_head(state: StateDirectory, path: Path) -> None:
    head = write(state, now=lambda: 1.0)
    path.unlink()
    write(state, now=lambda: 2.0)
    with pytest.raises(AuditError, match="another one"):
        verify_chain(state, KEYS, heads=[head])


def test_nothing_is_written_behind_a_forged_record(state: StateDirectory, path: Path) -> None:
    write(state)
    changed = lines(path)
    changed[-1] = changed[-1].replace(b"host-10", b"host-99")
    path.write_bytes(b"".join(changed))
    with pytest.raises(AuditError, match="audit verify"):
        AuditLog(state, KEYS)
    assert path.read_bytes() == b"".join(changed)


def test_a_log_that_is_cut_under_its_writer_stops_it(state: StateDirectory, path: Path) -> None:
    log = AuditLog(state, KEYS)
    log.append([{"event": "egress", "host": str(number)} for number in range(5)])
    path.write_bytes(b"".join(lines(path)[:3]))
    with pytest.raises(AuditError, match="cut or replaced while it was in use"):
        log.append([{"event": "egress"}])
    path.unlink()
    with pytest.raises(AuditError, match="now with nothing"):
        log.append([{"event": "egress"}])
    log.close()


@pytest.mark.parametrize("what", ["link", "directory", "readable", "fifo"])
def test_what_is_no_private_file_is_refused(state: StateDirectory, path: Path, what: str) -> None:
    state.create()
    if what == "link":
        path.symlink_to(state.project / "elsewhere")
    elif what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path, 0o600)
    else:
        path.write_bytes(b"")
        path.chmod(0o644)
    with pytest.raises(StateError):
        AuditLog(state, KEYS)
    assert not (state.project / "elsewhere").exists()


# ------------------------------------------------------------------ keys


def test_the_chain_goes_on_under_the_next_key_and_both_verify_it(state: StateDirectory) -> None:
    write(state, 3)
    both = KeyRing((*OTHER.keys, *KEYS.keys), "environment")
    log = AuditLog(state, both)
    log.append([{"event": "key"}])
    log.close()
    found: list[dict[str, Any]] = []
    assert verify_chain(state, both, watch=found.append).head == log.head
    assert [each["key"] for each in found] == [KEYS.primary.id.hex()] * 3 + [OTHER.primary.id.hex()]
    with pytest.raises(AuditError, match=f"line 4: sealed under the key {OTHER.primary.id.hex()}"):
        verify_chain(state, KEYS)


def test_who_lacks_the_last_key_continues_the_chain_all_the_same(state: StateDirectory) -> None:
    write(state, 3)
    log = AuditLog(state, OTHER)
    log.append([{"event": "egress"}])
    log.close()
    assert len(verify_chain(state, KeyRing((*OTHER.keys, *KEYS.keys), "environment")).macs) == 4


# ------------------------------------------------------------------ death and disks


def test_a_tail_torn_at_any_byte_is_cut_off_and_recorded(state: StateDirectory, path: Path) -> None:
    write(state, 4)
    data, whole = path.read_bytes(), b"".join(lines(path)[:3])
    for at in range(len(whole) + 1, len(data)):
        path.write_bytes(data[:at])
        assert verify_chain(state, KEYS).torn_bytes == at - len(whole)
        log = AuditLog(state, KEYS)
        log.append([{"event": "egress"}])
        log.close()
        torn = records(state)[3:]
        assert [each["event"] for each in torn] == ["log_torn", "egress"]
        assert torn[0]["bytes"] == at - len(whole)


@pytest.mark.parametrize("junk", [b"\0" * 4096, b'{"actor":"super' + b"\0" * 100])
def test_zeros_that_a_loss_of_power_left_are_a_torn_tail(
    state: StateDirectory, path: Path, junk: bytes
) -> None:
    write(state, 3)
    with path.open("ab") as file:
        file.write(junk)
    assert verify_chain(state, KEYS).torn_bytes == len(junk)
    write(state, 2)
    assert [each["event"] for each in records(state)[3:]] == ["log_torn", "egress", "egress"]


class DyingDisk(Disk):
    """Writes a part and is killed."""

    def __init__(self, after_bytes: int) -> None:
        self.left = after_bytes

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if len(data) > self.left:
            os.write(fd, data[: self.left])
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= len(data)
        return os.write(fd, data)


def in_child(act: Callable[[], object]) -> int:
    """`act` in a forked process; how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_a_writer_that_is_killed_at_any_offset_leaves_a_log_that_goes_on(state: StateDirectory) -> None:
    for after in range(7, 3000, 151):
        ended = in_child(lambda after=after: write(state, 12, disk=DyingDisk(after)))  # type: ignore[misc]
        assert os.WTERMSIG(ended) == signal.SIGKILL
        verify_chain(state, KEYS)
    write(state, 1)
    events = [each["event"] for each in records(state)]
    assert events.count("log_torn") >= 15
    assert events.count("log_begun") == 1


@pytest.mark.parametrize("point", ["audit.before_write", "audit.after_write", "audit.rotated"])
def test_a_kill_at_any_step_leaves_a_log_that_goes_on(state: StateDirectory, point: str) -> None:
    write(state, 3, rotate_bytes=1000)
    faults.arm(f"{point}:2:kill")
    assert os.WTERMSIG(in_child(lambda: write(state, 20, rotate_bytes=1000))) == signal.SIGKILL
    faults.disarm()
    before = verify_chain(state, KEYS).head
    assert before is not None
    write(state, 2)
    verify_chain(state, KEYS, heads=[before])


def test_processes_that_append_at_once_write_one_chain(state: StateDirectory) -> None:
    def append(number: int) -> None:
        log = AuditLog(state, KEYS, rotate_bytes=20_000)
        for turn in range(50):
            log.append([{"event": "egress", "host": f"{number}.{turn}"}])

    pids = []
    for number in range(4):
        if (pid := os.fork()) == 0:
            try:
                append(number)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    hosts = [each["host"] for each in records(state) if each["event"] == "egress"]
    assert sorted(hosts) == sorted(f"{number}.{turn}" for number in range(4) for turn in range(50))
    assert all(
        [each for each in hosts if each.startswith(f"{number}.")]
        == [f"{number}.{turn}" for turn in range(50)]
        for number in range(4)
    )
    assert len(rotated_files(state.root.parent)) > 2


class FullDisk(Disk):
    """Has room for so many bytes more, then none."""

    def __init__(self, room: int, code: int | None = errno.ENOSPC) -> None:
        self.room, self.code = room, code

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if len(data) <= self.room:
            return os.write(fd, data)
        written = os.write(fd, data[: self.room]) if self.room else 0
        if self.code is not None:
            raise OSError(self.code, os.strerror(self.code))
        return written


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, None], ids=["ENOSPC", "EIO", "short write"])
def test_what_cannot_be_written_whole_is_taken_back_and_told(
    state: StateDirectory, path: Path, code: int | None
) -> None:
    disk = FullDisk(1 << 20, code)
    log = AuditLog(state, KEYS, disk=disk)
    head = log.append([{"event": "egress"}])
    before, disk.room = path.read_bytes(), 100
    with pytest.raises(StorageError) as caught:
        log.append([{"event": "decision"}])
    assert caught.value.exit_code == 5
    assert (path.read_bytes(), log.head) == (before, head)
    disk.room = 1 << 20
    log.append([{"event": "decision"}])
    log.close()
    assert [each["event"] for each in records(state)] == ["log_begun", "egress", "decision"]


def test_a_forked_copy_of_a_writer_may_not_write(state: StateDirectory) -> None:
    log = AuditLog(state, KEYS)

    def refused() -> None:
        with pytest.raises(StorageError, match="forked copy"):
            log.append([{"event": "egress"}])
        os.kill(os.getpid(), signal.SIGUSR1)  # reached

    assert os.WTERMSIG(in_child(refused)) == signal.SIGUSR1
    log.close()


# ------------------------------------------------------------------ rotation and pruning


def rotated(state: StateDirectory) -> Chain:
    write(state, 40, rotate_bytes=2000)
    assert len(rotated_files(state.root.parent)) >= 4
    return verify_chain(state, KEYS)


def test_a_full_file_is_rotated_without_a_break_in_the_chain(state: StateDirectory) -> None:
    chain = rotated(state)
    events = [each["event"] for each in records(state)]
    assert chain.files == len(log_files(state.root.parent)) == 1 + events.count("log_continued")
    assert [each["seq"] for each in records(state)] == list(range(len(events)))
    assert all(len(path.read_bytes()) <= 2000 for path in log_files(state.root.parent))


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_rotated_file_that_is_gone_is_found(state: StateDirectory, which: int) -> None:
    rotated(state)
    rotated_files(state.root.parent)[which].unlink()
    with pytest.raises(AuditError, match=r"missing|chain is broken"):
        verify_chain(state, KEYS)


def test_pruned_files_leave_a_record_that_the_rest_proves_itself_from(state: StateDirectory) -> None:
    early = rotated(state).macs[1].hex()
    log = AuditLog(state, KEYS)
    files = rotated_files(state.root.parent)
    newest = files[-1].stat().st_mtime
    for number, each in enumerate(files):
        os.utime(each, (newest - 100 + number, newest - 100 + number))
    ends = [parse_line(read_tail(each).line, AuditKeys(KEYS)) for each in files[:2]]
    assert log.drop_before(newest - 98) == [each.name for each in files[:2]]
    log.close()
    chain = verify_chain(state, KEYS, heads=[Head(ends[1][0]["seq"], ends[1][1]), Head(1, early)])
    assert chain.first == ends[1][0]["seq"] + 1
    with pytest.raises(AuditError, match="another mac when it was pruned"):
        verify_chain(state, KEYS, heads=[Head(ends[1][0]["seq"], "0" * 64)])
    rotated_files(state.root.parent)[0].unlink()
    with pytest.raises(AuditError, match="missing"):
        verify_chain(state, KEYS)


# ------------------------------------------------------------------ commands


def test_a_command_records_what_it_does_where_there_is_a_log_or_a_key(state: StateDirectory) -> None:
    environ = {"SAGE_STATE_KEY": format_key(KEYS.primary.secret)}
    with audit_project(state.project, environ) as audit:
        audit.record("run_deleted", "r")
    assert not log_files(state.root.parent), "a project without state gets none"
    state.create()
    with audit_project(state.project, {"HOME": str(state.project)}) as audit:
        audit.record("run_deleted", "r")
    assert not log_files(state.root.parent), "no key, no log"
    with audit_project(state.project, environ) as audit:
        audit.record("run_deleted", "r")
    assert [(each["event"], each["actor"]) for each in records(state)] == [
        ("log_begun", "command line"),
        ("run_deleted", "command line"),
    ]
    with pytest.raises(KeyUnusableError):
        audit_project(state.project, {"HOME": str(state.project)})


def test_the_text_of_a_record_is_the_same_whatever_the_order_of_its_fields() -> None:
    assert canonical({"b": 1, "a": {"d": "é", "c": None}}) == b'{"a":{"c":null,"d":"\\u00e9"},"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})
