"""The journal against cuts, flips, crashes, failing disks and whoever rearranges its files."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from places import SOURCES

from sage_actors.actors import faults
from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.actors.state import journal_format
from sage_actors.actors.state.disk import Disk
from sage_actors.actors.state.journal import (
    MAX_PLAINTEXT_BYTES,
    FrameStore,
    Image,
    JournalWriter,
    Location,
    read_frame,
    read_journal,
    repair,
)
from sage_actors.actors.state.journal_format import FRAME_HEAD_BYTES, HEADER_BYTES, TAG_BYTES, SegmentCipher
from sage_actors.actors.state.journal_reader import segment_path
from sage_actors.messages.errors import (
    LimitExceeded,
    NoCheckpointError,
    SageError,
    StateCorruptedError,
    StateError,
    StorageError,
    WrongKeyError,
)

pytestmark = [pytest.mark.requirement("ORCH-015"), pytest.mark.requirement("ORCH-016")]

KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")
OTHER = KeyRing((MasterKey(bytes(range(1, 33))),), "environment")
RUN = b"run-uuid-16bytes"
SRC = str(SOURCES)


def write_segment(directory: Path, frames: list[bytes], *, keys: KeyRing = KEYS, run: bytes = RUN) -> None:
    """What a process does that takes the run over, writes `frames` and ends."""
    try:
        image = read_journal(directory, keys)
        list(image.frames)
        image.sync()
        previous = image.tail
    except NoCheckpointError:
        previous = None
    writer = JournalWriter.create(directory, keys, run_uuid=run, previous=previous)
    for plaintext in frames:
        writer.append(plaintext)
    writer.sync()
    writer.close()


def plaintexts(directory: Path, *, keys: KeyRing = KEYS, repair: bool = False) -> list[bytes]:
    return [plaintext for _, plaintext in read_journal(directory, keys, repair=repair).frames]


def read_until_error(directory: Path) -> tuple[list[bytes], SageError | None]:
    got: list[bytes] = []
    try:
        for _, plaintext in read_journal(directory, KEYS).frames:
            got.append(plaintext)
    except SageError as error:
        return got, error
    return got, None


def flip(path: Path, offset: int, mask: int = 0x01) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def cut(path: Path, length: int) -> None:
    os.truncate(path, length)


SINGLE = [[b"first", b"", b"third" * 9]]
SEVERAL = [[b"first", b"second"], [], [b"third", b"fourth" * 5]]


@pytest.fixture(params=[SINGLE, SEVERAL], ids=["one segment", "three segments"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[bytes]]:
    directory = tmp_path / "run"
    for frames in request.param:
        write_segment(directory, frames)
    return directory, [plaintext for frames in request.param for plaintext in frames]


# What is written is read


def test_what_is_written_is_read_in_order(run: tuple[Path, list[bytes]]) -> None:
    directory, written = run
    image = read_journal(directory, KEYS)
    assert [plaintext for _, plaintext in image.frames] == written
    assert (image.run_uuid, image.torn_bytes) == (RUN, 0)
    assert image.segments == image.tail.segment == len(list(directory.iterdir()))
    assert image.tail.valid_bytes == segment_path(directory, image.segments).stat().st_size


def test_every_frame_can_be_read_alone_in_any_order(run: tuple[Path, list[bytes]]) -> None:
    directory, _ = run
    pairs = list(read_journal(directory, KEYS).frames)
    store = FrameStore(directory, KEYS, keep_open=1)
    for location, plaintext in [*reversed(pairs), *pairs]:
        assert store.read(location) == plaintext == read_frame(directory, KEYS, location)
    store.close()


def test_append_says_where_the_frame_is_and_it_can_be_read_at_once(tmp_path: Path) -> None:
    writer = JournalWriter.create(tmp_path / "run", KEYS, run_uuid=RUN, previous=None)
    store = FrameStore(tmp_path / "run", KEYS)
    for number in range(5):
        location = writer.append(b"%d" % number)
        assert (location.segment, location.number) == (1, number)
        assert store.read(location) == b"%d" % number
    assert writer.segment == 1
    assert writer.bytes_written == segment_path(tmp_path / "run", 1).stat().st_size


@pytest.mark.parametrize("location", [(1, 0, 0), (1, 1, 112), (1, 0, 113), (1, 0, 10**9), (1, 0, -5)])
def test_a_location_where_no_frame_is_is_refused(tmp_path: Path, location: tuple[int, int, int]) -> None:
    write_segment(tmp_path / "run", [b"a", b"b"])
    with pytest.raises(StateCorruptedError):
        read_frame(tmp_path / "run", KEYS, Location(*location))
    with pytest.raises(StorageError):
        read_frame(tmp_path / "run", KEYS, Location(9, 0, 112))


def test_the_end_is_not_known_before_the_frames_were_walked(run: tuple[Path, list[bytes]]) -> None:
    image = read_journal(run[0], KEYS)
    with pytest.raises(RuntimeError):
        _ = image.tail
    with pytest.raises(RuntimeError):
        _ = image.torn_bytes


def test_without_a_journal_there_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("empty", "missing", "file"):
        with pytest.raises(NoCheckpointError):
            read_journal(tmp_path / name, KEYS)
        with pytest.raises(NoCheckpointError):
            repair(tmp_path / name, KEYS)


def test_nothing_of_the_plaintext_is_in_the_files(tmp_path: Path) -> None:
    write_segment(tmp_path / "run", [b"the secret result"] * 3)
    assert b"secret" not in segment_path(tmp_path / "run", 1).read_bytes()


def test_a_frame_beyond_the_limit_is_refused_and_the_writer_lives(tmp_path: Path) -> None:
    writer = JournalWriter.create(tmp_path / "run", KEYS, run_uuid=RUN, previous=None)
    with pytest.raises(LimitExceeded):
        writer.append(bytes(MAX_PLAINTEXT_BYTES + 1))
    writer.append(b"small")
    assert plaintexts(tmp_path / "run") == [b"small"]


# Cut at every byte, every byte flipped


def test_cut_at_every_byte_it_heals_or_is_refused(run: tuple[Path, list[bytes]]) -> None:
    directory, written = run
    segments = sorted(directory.iterdir())
    for path in segments:
        whole = path.read_bytes()
        for length in range(len(whole)):
            cut(path, length)
            got, error = read_until_error(directory)
            assert got == written[: len(got)]
            if path == segments[-1] and length >= HEADER_BYTES:
                assert error is None, f"a torn tail must heal: {path.name} cut at {length}: {error}"
            else:
                assert isinstance(error, StateCorruptedError), f"{path.name} cut at {length}"
                assert path.name in str(error)
            path.write_bytes(whole)


def test_a_torn_tail_is_measured(tmp_path: Path) -> None:
    write_segment(tmp_path / "run", [b"kept", b"torn"])
    path = segment_path(tmp_path / "run", 1)
    frame = FRAME_HEAD_BYTES + 4 + TAG_BYTES
    cut(path, path.stat().st_size - 3)
    image = read_journal(tmp_path / "run", KEYS)
    assert [plaintext for _, plaintext in image.frames] == [b"kept"]
    assert image.torn_bytes == frame - 3
    assert image.tail.valid_bytes == HEADER_BYTES + frame


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
@pytest.mark.no_cover
def test_every_flipped_byte_is_refused(run: tuple[Path, list[bytes]], mask: int) -> None:
    directory, written = run
    for path in sorted(directory.iterdir()):
        whole = path.read_bytes()
        for offset in range(len(whole)):
            flip(path, offset, mask)
            got, error = read_until_error(directory)
            assert got == written[: len(got)]
            assert isinstance(error, StateCorruptedError), f"{path.name}, byte {offset}: {error!r}"
            assert path.name in str(error)
            assert "damaged at byte" in str(error)
            path.write_bytes(whole)


def test_flipped_bytes_never_give_a_wrong_frame_by_location(run: tuple[Path, list[bytes]]) -> None:
    directory, _ = run
    pairs = list(read_journal(directory, KEYS).frames)
    for path in sorted(directory.iterdir()):
        whole = path.read_bytes()
        for offset in range(len(whole)):
            flip(path, offset)
            for location, plaintext in pairs:
                try:
                    assert read_frame(directory, KEYS, location) == plaintext
                except StateError:
                    pass
            path.write_bytes(whole)


@pytest.mark.parametrize("damage", [flip, cut])
def test_after_any_damage_repair_continues_from_the_longest_valid_prefix(
    tmp_path: Path, damage: Callable[[Path, int], None]
) -> None:
    source, written = tmp_path / "source", [b"first", b"second", b"third"]
    write_segment(source, written[:2])
    write_segment(source, written[2:])
    for name in ("journal-000001.sage", "journal-000002.sage"):
        for offset in range(0, (source / name).stat().st_size, 3):
            directory = tmp_path / "copy"
            shutil.copytree(source, directory)
            damage(directory / name, offset)
            before = {each.name: each.read_bytes() for each in directory.iterdir()}
            prefix, error = read_until_error(directory)
            try:
                report = repair(directory, KEYS)
            except StateCorruptedError as refusal:
                assert name == "journal-000001.sage"
                assert offset < HEADER_BYTES
                text = str(refusal)
                assert text.startswith("nothing can be saved")
                assert {each.name: each.read_bytes() for each in directory.iterdir()} == before
            else:
                assert bool(report.damage) == (error is not None)
                kept = plaintexts(directory)
                assert kept == written[: len(kept)]
                assert len(kept) >= (2 if name == "journal-000002.sage" else len(prefix))
                for aside in report.kept_aside:
                    assert aside.read_bytes() == before[aside.name.partition(".damaged-")[0]]
                    assert aside.stat().st_mode & 0o777 == 0o600
                write_segment(directory, [b"went on"])
                assert plaintexts(directory) == [*kept, b"went on"]
            shutil.rmtree(directory)


def test_repair_of_a_sound_journal_changes_nothing(run: tuple[Path, list[bytes]]) -> None:
    directory, written = run
    before = {each.name: each.read_bytes() for each in directory.iterdir()}
    report = repair(directory, KEYS)
    assert (report.damage, report.kept_aside, report.dropped_bytes) == ((), (), 0)
    assert report.last == list(read_journal(directory, KEYS).frames)[-1][0]
    assert {each.name: each.read_bytes() for each in directory.iterdir()} == before
    assert plaintexts(directory, repair=True) == written


def test_repair_touches_nothing_when_the_key_is_missing(run: tuple[Path, list[bytes]]) -> None:
    before = {each.name: each.read_bytes() for each in run[0].iterdir()}
    with pytest.raises(WrongKeyError):
        repair(run[0], OTHER)
    assert {each.name: each.read_bytes() for each in run[0].iterdir()} == before


def test_a_failing_disk_ends_a_repair_that_can_be_repeated(tmp_path: Path) -> None:
    for failing in range(1, 30):
        directory = tmp_path / str(failing)
        write_segment(directory, [b"first", b"second"])
        write_segment(directory, [b"third"])
        flip(segment_path(directory, 1), 150)
        try:
            repair(directory, KEYS, disk=FaultyDisk(failing, errno.ENOSPC))
        except StorageError:
            assert plaintexts(directory, repair=True) == [b"first"]
        else:
            assert failing > 3
            return
    pytest.fail("the disk never worked")


# Zeros that a loss of power leaves


@pytest.mark.parametrize("zeros", [1, 12, 13, 40, 4096, 1 << 20])
def test_zeros_behind_the_last_frame_are_a_torn_tail(tmp_path: Path, zeros: int) -> None:
    write_segment(tmp_path / "run", [b"kept"])
    with open(segment_path(tmp_path / "run", 1), "ab") as file:
        file.write(bytes(zeros))
    image = read_journal(tmp_path / "run", KEYS)
    assert [plaintext for _, plaintext in image.frames] == [b"kept"]
    assert image.torn_bytes == zeros


def test_a_last_frame_whose_end_reads_as_zeros_is_a_torn_tail(tmp_path: Path) -> None:
    write_segment(tmp_path / "run", [b"kept", b"x" * 50])
    path = segment_path(tmp_path / "run", 1)
    whole = path.read_bytes()
    last = HEADER_BYTES + FRAME_HEAD_BYTES + 4 + TAG_BYTES
    for start in range(last, len(whole) - TAG_BYTES + 1):
        path.write_bytes(whole[:start] + bytes(len(whole) - start + 100))
        assert plaintexts(tmp_path / "run") == [b"kept"]


def test_zeros_before_sound_bytes_are_damage(tmp_path: Path) -> None:
    write_segment(tmp_path / "run", [b"a" * 50, b"b" * 50])
    path = segment_path(tmp_path / "run", 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:HEADER_BYTES] + bytes(60) + whole[HEADER_BYTES + 60 :])
    with pytest.raises(StateCorruptedError):
        plaintexts(tmp_path / "run")


# Resumes: fenced tails, fresh keys


def test_what_lies_behind_a_fenced_tail_is_ignored_for_ever(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    write_segment(directory, [b"kept", b"torn"])
    path = segment_path(directory, 1)
    cut(path, path.stat().st_size - 5)
    write_segment(directory, [b"next"])
    assert plaintexts(directory) == [b"kept", b"next"]
    with open(path, "ab") as file:
        file.write(b"whatever comes there later")
    assert plaintexts(directory) == [b"kept", b"next"]
    write_segment(directory, [b"last"])
    assert plaintexts(directory) == [b"kept", b"next", b"last"]


class RecordingAESGCM:
    """The real cipher, and a list of each (key, nonce) that sealed something."""

    used: list[tuple[bytes, bytes]]

    def __init__(self, key: bytes) -> None:
        self._key, self._real = key, AESGCM(key)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        self.used.append((self._key, nonce))
        return self._real.encrypt(nonce, data, associated_data)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        return self._real.decrypt(nonce, data, associated_data)


def test_fifty_resumes_of_one_disk_image_never_use_a_key_and_nonce_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RecordingAESGCM.used = []
    monkeypatch.setattr(journal_format, "AESGCM", RecordingAESGCM)
    image = tmp_path / "image"
    write_segment(image, [b"result %d" % number for number in range(5)])
    size = segment_path(image, 1).stat().st_size
    for resume in range(50):
        directory = tmp_path / f"resume{resume}"
        shutil.copytree(image, directory)
        cut(segment_path(directory, 1), size - resume * 3)
        write_segment(directory, [b"other %d" % resume, b"more"])
        write_segment(directory, [b"again %d" % resume])
    assert len(RecordingAESGCM.used) == 5 + 50 * 3
    assert len(set(RecordingAESGCM.used)) == len(RecordingAESGCM.used)


def test_the_nonce_is_spent_before_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RecordingAESGCM.used = []
    monkeypatch.setattr(journal_format, "AESGCM", RecordingAESGCM)
    disk = FaultyDisk(4, errno.ENOSPC)
    writer = JournalWriter.create(tmp_path, KEYS, run_uuid=RUN, previous=None, disk=disk)
    for _ in range(3):
        with pytest.raises(StorageError):
            writer.append(b"x")
    assert len(RecordingAESGCM.used) == 1


def test_a_writer_never_takes_over_a_segment_that_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    write_segment(directory, [b"mine"])
    before = segment_path(directory, 1).read_bytes()
    with pytest.raises(StorageError, match="exists"):
        JournalWriter.create(directory, KEYS, run_uuid=RUN, previous=None)
    assert segment_path(directory, 1).read_bytes() == before
    assert [each.name for each in directory.iterdir()] == ["journal-000001.sage"]


# Other hands: files swapped, spliced, copied, rolled back


def three_segments(directory: Path) -> list[Path]:
    for number in range(3):
        write_segment(directory, [b"a%d" % number, b"b%d" % number])
    return [segment_path(directory, number) for number in (1, 2, 3)]


def refused(directory: Path) -> None:
    got, error = read_until_error(directory)
    assert isinstance(error, StateCorruptedError), error
    assert got == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2"][: len(got)]


def test_swapped_segments_are_refused(tmp_path: Path) -> None:
    one, two, _ = three_segments(tmp_path)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    refused(tmp_path)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_removed_segment_is_refused(tmp_path: Path, victim: int) -> None:
    three_segments(tmp_path)[victim].unlink()
    refused(tmp_path)


def test_a_duplicated_segment_is_refused(tmp_path: Path) -> None:
    paths = three_segments(tmp_path)
    shutil.copy(paths[2], segment_path(tmp_path, 4))
    refused(tmp_path)


def test_a_segment_rolled_back_to_an_earlier_state_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    writer = JournalWriter.create(directory, KEYS, run_uuid=RUN, previous=None)
    writer.append(b"a0")
    early = segment_path(directory, 1).read_bytes()
    writer.append(b"b0")
    writer.close()
    write_segment(directory, [b"a1"])
    segment_path(directory, 1).write_bytes(early)
    refused(directory)


def test_a_segment_of_another_run_is_refused(tmp_path: Path) -> None:
    three_segments(tmp_path / "run")
    other = tmp_path / "other"
    for number in range(3):
        write_segment(other, [b"a%d" % number, b"b%d" % number], run=b"another-run-uuid")
    shutil.copy(segment_path(other, 2), segment_path(tmp_path / "run", 2))
    refused(tmp_path / "run")
    with pytest.raises(StateCorruptedError, match="another run"):
        read_journal(tmp_path / "run", KEYS)


def test_a_segment_of_a_copy_of_the_run_is_refused(tmp_path: Path) -> None:
    write_segment(tmp_path / "run", [b"a0", b"b0"])
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for directory in (tmp_path / "run", tmp_path / "copy"):
        write_segment(directory, [b"a1", b"b1"])
        write_segment(directory, [b"a2", b"b2"])
    shutil.copy(segment_path(tmp_path / "copy", 2), segment_path(tmp_path / "run", 2))
    refused(tmp_path / "run")


@pytest.mark.parametrize("order", [(1, 0), (0, 0, 1), (0,) * 3, (0, 2), (1,)])
def test_frames_swapped_repeated_or_left_out_are_refused(tmp_path: Path, order: tuple[int, ...]) -> None:
    write_segment(tmp_path, [b"a0", b"b0", b"a1"])
    write_segment(tmp_path, [b"b1"])
    path = segment_path(tmp_path, 1)
    whole, length = path.read_bytes(), FRAME_HEAD_BYTES + 2 + TAG_BYTES
    frames = [whole[HEADER_BYTES + length * number :][:length] for number in range(3)]
    path.write_bytes(whole[:HEADER_BYTES] + b"".join(frames[number] for number in order))
    refused(tmp_path)


# Keys


def test_another_key_is_not_mistaken_for_damage(run: tuple[Path, list[bytes]]) -> None:
    with pytest.raises(WrongKeyError, match=KEYS.primary.id.hex()):
        read_journal(run[0], OTHER)


def test_a_run_continues_under_a_new_key_while_the_old_one_is_there(tmp_path: Path) -> None:
    write_segment(tmp_path, [b"old"])
    both = KeyRing((*OTHER.keys, *KEYS.keys), "file")
    write_segment(tmp_path, [b"new"], keys=both)
    assert plaintexts(tmp_path, keys=both) == [b"old", b"new"]
    for incomplete in (KEYS, OTHER):
        with pytest.raises(WrongKeyError):
            plaintexts(tmp_path, keys=incomplete)


# Modes, links, strange files


@pytest.fixture(params=[0o000, 0o077, 0o277])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.requirement("ORCH-023")
@pytest.mark.usefixtures("any_umask")
def test_segments_are_private_under_any_umask(tmp_path: Path) -> None:
    write_segment(tmp_path / "state" / "run", [b"x"])
    flip(segment_path(tmp_path / "state" / "run", 1), 120)
    for path in (tmp_path / "state", tmp_path / "state" / "run"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert plaintexts(tmp_path / "state" / "run", repair=True) == []
    for path in (tmp_path / "state" / "run").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "readable"])
def test_what_is_no_private_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    write_segment(tmp_path, [b"x"])
    path, real = segment_path(tmp_path, 1), tmp_path / "real"
    path.rename(real)
    match kind:
        case "link":
            path.symlink_to(real)
        case "fifo":
            os.mkfifo(path, 0o600)
        case "directory":
            path.mkdir()
        case "readable":
            real.rename(path)
            path.chmod(0o644)
    with pytest.raises(StateError) as refused:
        read_journal(tmp_path, KEYS)
    assert refused.value.exit_code == 4  # damaged: to wait for the disk is of no use


def test_a_link_in_the_place_of_a_new_segment_is_not_followed(tmp_path: Path) -> None:
    directory, target = tmp_path / "run", tmp_path / "target"
    directory.mkdir()
    segment_path(directory, 1).symlink_to(target)
    with pytest.raises(StorageError):
        JournalWriter.create(directory, KEYS, run_uuid=RUN, previous=None)
    assert not target.exists()


# Forks, crashes, failing disks


def test_a_forked_copy_refuses_to_write(tmp_path: Path) -> None:
    writer = JournalWriter.create(tmp_path, KEYS, run_uuid=RUN, previous=None)
    writer.append(b"parent")
    child = os.fork()
    if child == 0:
        refusals = 0
        for act in (lambda: writer.append(b"child"), writer.sync):
            try:
                act()
            except StorageError:
                refusals += 1
        os._exit(refusals)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    writer.append(b"parent again")
    assert plaintexts(tmp_path) == [b"parent", b"parent again"]


class FaultyDisk(Disk):
    """A real disk whose call number `fails_at` fails: with an errno, or by writing half (`None`)."""

    def __init__(self, fails_at: int, error: int | None) -> None:
        self.fails_at, self.error, self.calls = fails_at, error, 0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self._fails():
            if self.error is None:
                return super().write(fd, data[: len(data) // 2])
            super().write(fd, data[: len(data) // 3])  # part of it may well be there
            raise OSError(self.error, os.strerror(self.error))
        return super().write(fd, data)

    def sync_data(self, fd: int) -> None:
        if self._fails() and self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        super().sync_data(fd)

    def sync(self, fd: int) -> None:
        if self._fails() and self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        super().sync(fd)

    def _fails(self) -> bool:
        self.calls += 1
        return self.calls == self.fails_at


def write_with(disk: Disk, directory: Path, acknowledged: list[bytes]) -> None:
    """Two processes' worth of a run; what is acknowledged was synced."""
    previous = None
    for segment in range(2):
        writer = JournalWriter.create(directory, KEYS, run_uuid=RUN, previous=previous, disk=disk)
        try:
            for number in range(3):
                plaintext = b"segment %d frame %d" % (segment, number)
                writer.append(plaintext)
                writer.sync()
                acknowledged.append(plaintext)
        except StorageError:
            with pytest.raises(StorageError):  # a dead writer stays dead, and asks the disk nothing
                writer.append(b"after the failure")
            with pytest.raises(StorageError):
                writer.sync()
            raise
        finally:
            writer.close()
        image = read_journal(directory, KEYS, disk=disk)
        list(image.frames)
        image.sync()
        previous = image.tail


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, None], ids=["ENOSPC", "EIO", "short write"])
def test_a_disk_that_fails_at_any_call_loses_nothing_acknowledged(tmp_path: Path, error: int | None) -> None:
    everything = [b"segment %d frame %d" % (segment, number) for segment in range(2) for number in range(3)]
    failures = 0
    for fails_at in range(1, 100):
        directory = tmp_path / str(fails_at)
        acknowledged: list[bytes] = []
        disk = FaultyDisk(fails_at, error)
        try:
            write_with(disk, directory, acknowledged)
        except StorageError:
            failures += 1
            calls = disk.calls
        else:
            calls = disk.calls
            assert acknowledged == everything
        found = plaintexts(directory) if segment_path(directory, 1).exists() else []
        assert found[: len(acknowledged)] == acknowledged
        assert found == everything[: len(found)]
        write_segment(directory, [b"continued"])
        assert plaintexts(directory) == [*found, b"continued"]
        if calls < fails_at:
            assert failures >= (6 if error is None else 20)
            return
    pytest.fail("the scenario has no end")


@pytest.mark.parametrize("point", ["before_write", "after_write", "before_fsync", "after_fsync"])
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_a_named_fault_poisons_the_writer(tmp_path: Path, point: str, action: str) -> None:
    writer = JournalWriter.create(tmp_path, KEYS, run_uuid=RUN, previous=None)
    faults.arm(f"journal.{point}:1:{action}")
    try:
        with pytest.raises(StorageError, match="injected"):  # noqa: PT012 - either of the two may fail
            writer.append(b"x")
            writer.sync()
    finally:
        faults.disarm()
    with pytest.raises(StorageError):
        writer.append(b"y")
    assert plaintexts(tmp_path) in ([], [b"x"])


@pytest.mark.parametrize("point", ["segment_created", "segment_renamed"])
def test_a_failed_birth_leaves_no_temporary_name(tmp_path: Path, point: str) -> None:
    faults.arm(f"journal.{point}:1:eio")
    try:
        with pytest.raises(StorageError, match="injected"):
            JournalWriter.create(tmp_path, KEYS, run_uuid=RUN, previous=None)
    finally:
        faults.disarm()
    assert not list(tmp_path.glob(".*"))


CRASHING = """
import sys
from pathlib import Path
from sage_actors.actors.state.journal import JournalWriter, read_journal
from sage_actors.actors.keys.provider import KeyRing, MasterKey
keys = KeyRing((MasterKey(bytes(range(32))),), "environment")
previous = None
for segment in range(2):
    writer = JournalWriter.create(Path(sys.argv[1]), keys, run_uuid=b"run-uuid-16bytes", previous=previous)
    for number in range(3):
        writer.append(b"%d.%d" % (segment, number))
        writer.sync()
        print(f"{segment}.{number}", flush=True)
    image = read_journal(Path(sys.argv[1]), keys)
    list(image.frames)
    previous = image.tail
"""


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "point",
    ["before_write", "after_write", "before_fsync", "after_fsync", "segment_created", "segment_renamed"],
)
def test_a_kill_at_any_named_point_loses_nothing_acknowledged(tmp_path: Path, point: str, count: int) -> None:
    environ = {**os.environ, "PYTHONPATH": SRC, "SAGE_FAULT": f"journal.{point}:{count}:kill"}
    command = [sys.executable, "-c", CRASHING, str(tmp_path / "run")]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=30, check=False)
    assert done.returncode == -9, done.stderr.decode()
    acknowledged = done.stdout.split()
    found = plaintexts(tmp_path / "run") if segment_path(tmp_path / "run", 1).exists() else []
    assert found[: len(acknowledged)] == acknowledged
    write_segment(tmp_path / "run", [b"continued"])
    assert plaintexts(tmp_path / "run") == [*found, b"continued"]
    assert not list((tmp_path / "run").glob(".*"))


FILLING = """
import sys
from pathlib import Path
from sage_actors.actors.state.journal import JournalWriter
from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.messages.errors import StorageError
keys = KeyRing((MasterKey(bytes(range(32))),), "environment")
writer = JournalWriter.create(Path(sys.argv[1]), keys, run_uuid=b"run-uuid-16bytes", previous=None)
count = 0
try:
    while True:
        writer.append(bytes(1000))
        writer.sync()
        count += 1
except StorageError as error:
    print(count, error)
"""


def test_a_file_that_may_not_grow_cuts_a_real_write_short(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    command = [sys.executable, "-B", "-c", FILLING, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": SRC}
    done = subprocess.run(
        command, env=environ, capture_output=True, timeout=30, check=True, preexec_fn=limit, text=True
    )
    assert done.stdout.startswith("3 ")
    assert "cut short" in done.stdout
    image = read_journal(tmp_path, KEYS)
    assert len(list(image.frames)) == 3
    assert image.torn_bytes == 4000 - image.tail.valid_bytes


# The frame codec


def cipher_of(salt: bytes) -> SegmentCipher:
    return journal_format.seal_header(KEYS.primary, run_uuid=RUN, segment=1, salt=salt, previous=None)[1]


CIPHER = cipher_of(bytes(32))
TAGS = st.binary(min_size=TAG_BYTES, max_size=TAG_BYTES)


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1), TAGS)
def test_a_sealed_frame_opens_under_its_own_number_and_tag_only(
    plaintext: bytes, number: int, tag: bytes
) -> None:
    frame = CIPHER.seal(number, tag, plaintext)
    head, body = frame[:FRAME_HEAD_BYTES], frame[FRAME_HEAD_BYTES:]
    length, binding = CIPHER.genuine_head(head, number, tag) or (0, b"")
    assert length == len(body)
    assert CIPHER.open(body, number, binding) == plaintext
    assert CIPHER.open(body, number ^ 1, binding) is None
    assert CIPHER.open(body, number, binding[:-1] + bytes([binding[-1] ^ 1])) is None
    wrong_tag = bytes([tag[0] ^ 1]) + tag[1:]
    for other_number, other_tag in ((number ^ 1, tag), (number, wrong_tag)):
        assert CIPHER.genuine_head(head, other_number, other_tag) is None
    assert cipher_of(b"\1" * 32).open(body, number, binding) is None


@given(st.binary(max_size=100), TAGS, st.data())
def test_no_altered_frame_opens(plaintext: bytes, tag: bytes, data: st.DataObject) -> None:
    frame = bytearray(CIPHER.seal(7, tag, plaintext))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    head, body = bytes(frame[:FRAME_HEAD_BYTES]), bytes(frame[FRAME_HEAD_BYTES:])
    genuine = CIPHER.genuine_head(head, 7, tag)
    assert genuine is None or CIPHER.open(body, 7, genuine[1]) is None


@given(st.binary(max_size=400))
def test_any_bytes_as_a_segment_are_refused_or_healed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    directory = tmp_path_factory.mktemp("any")
    write_segment(directory, [b"first"])
    path = segment_path(directory, 1)
    whole = path.read_bytes()
    for content, kept in ((data, []), (whole[:HEADER_BYTES] + data, []), (whole + data, [b"first"])):
        path.write_bytes(content)
        got, _ = read_until_error(directory)
        assert got in (kept, [])
    shutil.rmtree(directory)


def test_an_image_is_synced_file_by_file_and_once(tmp_path: Path) -> None:
    write_segment(tmp_path, [b"x"])
    write_segment(tmp_path, [b"y"])
    disk = FaultyDisk(-1, None)
    image: Image = read_journal(tmp_path, KEYS, disk=disk)
    image.sync()
    assert disk.calls == 3  # two segments and their directory
    for fails_at in (1, 2, 3):
        with pytest.raises(StorageError):
            read_journal(tmp_path, KEYS, disk=FaultyDisk(fails_at, errno.EIO)).sync()


def test_the_last_frames_tag_is_known_behind_a_segment_without_frames(tmp_path: Path) -> None:
    """A process that was killed right after it began a segment leaves one: its own tag is no frame's."""
    write_segment(tmp_path / "run", [b"one", b"two"])
    whole = read_journal(tmp_path / "run", KEYS)
    list(whole.frames)
    write_segment(tmp_path / "run", [])
    image = read_journal(tmp_path / "run", KEYS)
    assert list(image.frames)[-1][0] == image.last == whole.last
    assert image.last_tag == whole.last_tag == whole.tail.tag
    assert image.tail.tag != image.last_tag
