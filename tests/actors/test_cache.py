"""The cache of results: sealed, replaced whole, counted over processes, and never a reason to fail."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.actors.cache.store import CacheCounts, CacheEntry, ResultCache
from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.messages.errors import StateError

KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")
OTHER = KeyRing((MasterKey(bytes(range(1, 33))),), "environment")


def make(root: Path, keys: KeyRing = KEYS, now: float = 1000.0) -> ResultCache:
    return ResultCache(root / "cache", keys, now=lambda: now)


def entry(
    value: bytes = b"\x01", *, at: float = 1000.0, ttl: float = 100.0, label: str = "python m:f"
) -> CacheEntry:
    return CacheEntry(label, value, at, at + ttl, 5, {"input_tokens": 7}, "run node")


@pytest.mark.requirement("ORCH-019")
def test_what_was_kept_is_found_by_what_was_asked(tmp_path: Path) -> None:
    cache = make(tmp_path)
    name = cache.name_of(b"question")
    assert cache.get(name) is None
    cache.put(name, entry(b"answer"))
    assert make(tmp_path).get(name) == entry(b"answer")
    assert cache.get(cache.name_of(b"another")) is None


@pytest.mark.parametrize("link", ["p/.sage", "p/.sage/cache", "p/.sage/cache/results"])
def test_a_cache_that_a_link_leads_elsewhere_is_refused(link: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / link).parent.mkdir(parents=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="is a link"):
        ResultCache(tmp_path / "p/.sage/cache", KEYS)


def test_an_entry_expires_and_may_still_be_had_as_a_stale_one(tmp_path: Path) -> None:
    cache = make(tmp_path, now=1100.0)
    name = cache.name_of(b"q")
    cache.put(name, entry(at=1000.0, ttl=100.0))
    assert cache.get(name) is None
    assert cache.get(name, stale=True) is not None


def test_an_entry_from_the_future_is_not_fresh(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.put("ab" * 32, entry(at=5000.0))
    assert cache.get("ab" * 32) is None


@pytest.mark.requirement("ORCH-016")
def test_files_are_sealed_and_private_and_names_tell_nothing(tmp_path: Path) -> None:
    cache = make(tmp_path)
    old = os.umask(0)
    try:
        cache.put(cache.name_of(b"secret topic"), entry(b"secret finding", label="mcp secret-tool"))
    finally:
        os.umask(old)
    (path,) = (tmp_path / "cache").rglob("*.sage")
    assert b"secret" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(
        stat.S_IMODE(each.stat().st_mode) == 0o700 for each in path.parents if tmp_path in each.parents
    )
    assert cache.name_of(b"secret topic") != make(tmp_path, OTHER).name_of(b"secret topic")


def test_every_flipped_bit_and_every_cut_is_a_miss_that_is_set_aside(tmp_path: Path) -> None:
    cache = make(tmp_path)
    name = cache.name_of(b"q")
    cache.put(name, entry(b"value"))
    (path,) = (tmp_path / "cache").rglob("*.sage")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert cache.get(name) is None
        path.write_bytes(whole[:at])
        assert cache.get(name) is None
    assert (tmp_path / "cache/results/damaged" / path.name).exists()
    cache.put(name, entry(b"value"))
    assert cache.get(name) == entry(b"value")


def test_an_entry_that_was_renamed_to_another_question_does_not_open(tmp_path: Path) -> None:
    cache = make(tmp_path)
    first, second = cache.name_of(b"a"), cache.name_of(b"b")
    cache.put(first, entry(b"of a"))
    cache.put(second, entry(b"of b"))
    of = {each.stem: each for each in (tmp_path / "cache").rglob("*.sage")}
    of[first].rename(of[second])
    assert cache.get(second) is None


def test_another_key_opens_nothing_and_destroys_nothing_it_did_not_ask_for(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.put(cache.name_of(b"q"), entry())
    other = make(tmp_path, OTHER)
    assert other.get(other.name_of(b"q")) is None
    assert [found for _, _, found in other.entries()] == [None]
    assert cache.get(cache.name_of(b"q")) is not None


def test_clear_removes_all_or_what_is_chosen(tmp_path: Path) -> None:
    cache = make(tmp_path, now=2000.0)
    for number, (at, label) in enumerate([(100.0, "old a"), (1900.0, "new a"), (1900.0, "new b")]):
        cache.put(cache.name_of(bytes([number])), entry(at=at, ttl=1e6, label=label))
    assert cache.clear(older_than_s=1000.0) == 1
    assert cache.clear(label="new b") == 1
    assert cache.clear() == 1
    assert cache.clear() == 0


def test_clear_with_a_choice_leaves_what_it_cannot_read(tmp_path: Path) -> None:
    make(tmp_path, OTHER).put("0" * 64, entry())
    cache = make(tmp_path, now=2000.0)
    assert cache.clear(label="nothing") == cache.clear(older_than_s=1.0) == 0
    assert cache.clear() == 1


def test_trim_keeps_what_was_written_last_under_the_limit(tmp_path: Path) -> None:
    cache = make(tmp_path)
    names = [cache.name_of(bytes([number])) for number in range(10)]
    for at, name in enumerate(names):
        cache.put(name, entry(b"x" * 1000))
        path = next((tmp_path / "cache").rglob(f"{name}.sage"))
        os.utime(path, (at, at))
    assert cache.trim(limit_bytes=6000) > 0
    assert cache.get(names[9]) is not None
    assert cache.get(names[0]) is None
    assert cache.trim(limit_bytes=6000) == 0


def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    cache = make(tmp_path, now=10_000.0)
    cache.put("ab" * 32, entry(at=10_000.0))
    folder = tmp_path / "cache/results/ab"
    for name, at in (("old", 1_000.0), ("new", 9_000.0)):
        path = folder / f".{name}.sage.0123.tmp"
        path.write_bytes(b"half")
        os.utime(path, (at, at))
    cache.trim()
    assert sorted(each.name for each in folder.iterdir()) == [".new.sage.0123.tmp", f"{'ab' * 32}.sage"]


def _hit_often(root: Path) -> None:
    for _ in range(50):
        make(root).count(hits=1, tokens_saved=2)


@pytest.mark.requirement("ORCH-019")
def test_counts_of_many_processes_add_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_hit_often, args=(tmp_path,)) for _ in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(30)
    make(tmp_path).count(misses=50)
    counts = make(tmp_path).counts()
    assert (counts.hits, counts.misses, counts.tokens_saved) == (200, 50, 400)
    assert counts.hit_rate == 0.8


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hits": "many"}', '{"hits": -3}', "null"])
def test_counts_that_are_damaged_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/counts.json").write_text(text)
    assert make(tmp_path).counts() == CacheCounts()
    make(tmp_path).count(hits=1)
    assert json.loads((tmp_path / "cache/counts.json").read_text())["hits"] == 1


def test_a_disk_that_refuses_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path)
    cache.put("ab" * 32, entry(b"old"))

    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        cache.put("ab" * 32, entry(b"new"))
    monkeypatch.undo()
    assert cache.get("ab" * 32) == entry(b"old")
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_miss(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = make(Path(folder))
        path = cache.root / "results" / "ab" / f"{'ab' * 32}.sage"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        assert cache.get("ab" * 32) is None


def test_counts_that_a_disk_refuses_are_short_by_it_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(tmp_path)
    cache.count(hits=1)

    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    cache.count(hits=1)
    monkeypatch.undo()
    assert cache.counts().hits == 1
    assert [each.name for each in (tmp_path / "cache").iterdir()] == ["counts.json"]
