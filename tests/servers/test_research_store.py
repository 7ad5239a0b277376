"""Stored research: upstream's files are read, nothing collides, nothing is lost, no count either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from places import SOURCES
from secret_samples import sample

from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.servers.research import store as research_store
from sage_actors.servers.research.store import ResearchStore

DAY_MS = 24 * 3600 * 1000
UPSTREAM = {
    "topic": "C++",
    "findings": "use RAII",
    "metadata": {"source": "web", "confidence": 0.8, "lastUpdated": "2026-01-01T00:00:00.000Z"},
    "timestamp": 1_767_225_600_000,
    "expiresAt": 4_000_000_000_000,
    "accessCount": 7,
    "lastAccessed": 1_767_225_600_000,
}
PLAN = {
    "topic": "Rate limiting",
    "findings": {"summary": "token bucket"},
    "metadata": {"tokenCount": 12, "queryTime": 40, "sources": ["a"]},
    "timestamp": "2026-01-01T00:00:00Z",
    "expiresAt": "2090-01-01T00:00:00Z",
}


@pytest.fixture
def store(tmp_path: Path) -> ResearchStore:
    return ResearchStore(tmp_path)


def folder(project: Path) -> Path:
    return project / ".sage/cache/research"


def write_upstream(project: Path, name: str, content: object) -> Path:
    path = project / ".sage/agent/research" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_was_stored_comes_back_in_another_process_too(store: ResearchStore, tmp_path: Path) -> None:
    store.put("Rate  Limiting", "use a bucket", source="docs", confidence=0.5)
    entry = ResearchStore(tmp_path).get("rate limiting")
    assert entry is not None
    assert (entry.topic, entry.findings, entry.accessCount) == ("Rate  Limiting", "use a bucket", 1)
    assert entry.metadata["source"] == "docs"
    [path] = folder(tmp_path).glob("*.json")
    assert set(json.loads(path.read_text())) == set(UPSTREAM), "upstream can read it"
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C#", "C++"),
        ("日本語の検索", "日本語の索引"),
        ("naïve", "nave"),
        ("a" * 200 + "1", "a" * 200 + "2"),
        ("../../etc/passwd", "etc passwd"),
    ],
)
def test_topics_that_look_alike_do_not_meet(
    store: ResearchStore, tmp_path: Path, one: str, other: str
) -> None:
    store.put(one, "first")
    assert store.get(other) is None
    store.put(other, "second")
    first, second = store.get(one), store.get(other)
    assert first is not None
    assert second is not None
    assert (first.findings, second.findings) == ("first", "second")
    assert len(list(folder(tmp_path).glob("*.json"))) == 2


def test_upstreams_entries_are_read_and_left_as_they_are(store: ResearchStore, tmp_path: Path) -> None:
    path = write_upstream(tmp_path, "c.json", UPSTREAM)
    before = path.read_bytes()
    entry = store.get("c++")
    assert entry is not None
    assert (entry.findings, entry.accessCount) == ("use RAII", 8)
    assert store.get("C#") is None, "upstream's file name is the same, its topic is not"
    assert path.read_bytes() == before


def test_the_variant_of_upstreams_plan_is_read(store: ResearchStore, tmp_path: Path) -> None:
    write_upstream(tmp_path, "rate-limiting.json", PLAN)
    write_upstream(tmp_path, "CACHE_MANIFEST.json", {"version": 1})
    entry = store.get("rate limiting")
    assert entry is not None
    assert json.loads(entry.findings) == {"summary": "token bucket"}
    assert entry.timestamp == 1_767_225_600_000
    assert store.statistics().entries == 1


def test_our_own_entry_comes_before_upstreams(store: ResearchStore, tmp_path: Path) -> None:
    write_upstream(tmp_path, "c.json", UPSTREAM)
    store.put("C++", "newer")
    entry = store.get("C++")
    assert entry is not None
    assert entry.findings == "newer"
    assert store.invalidate("C++")
    assert store.get("C++") is None
    assert not store.invalidate("C++")


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"topic": "x"}', '{"topic":"x","findings":"y","timestamp":"soon"}', "[" * 9000]
)
def test_a_damaged_entry_is_a_miss_and_is_set_aside(
    store: ResearchStore, tmp_path: Path, damage: str
) -> None:
    store.put("x", "y")
    [path] = folder(tmp_path).glob("*.json")
    path.write_text(damage)
    assert store.get("x") is None
    assert not path.exists()
    [aside] = folder(tmp_path).glob("*.corrupt")
    assert aside.read_text() == damage
    store.put("x", "again")
    assert store.get("x") is not None


def test_after_thirty_days_an_entry_is_a_miss_and_cleanup_removes_it(tmp_path: Path) -> None:
    now = [1_800_000_000_000]
    store = ResearchStore(tmp_path, now_ms=lambda: now[0])
    store.put("old", "x")
    now[0] += 30 * DAY_MS
    assert store.get("old") is not None
    store.put("young", "x")
    now[0] += 1
    assert store.get("old") is None
    assert store.cleanup() == 1
    assert store.cleanup() == 0
    assert store.get("young") is not None


def in_many(count: int, act: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=act, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_twenty_readers_at_once_add_twenty(store: ResearchStore, tmp_path: Path) -> None:
    store.put("x", "y")
    in_many(20, lambda _: ResearchStore(tmp_path).get("x"))
    entry = store.get("x")
    assert entry is not None
    assert entry.accessCount == 21


def test_hits_and_misses_of_all_processes_are_counted(store: ResearchStore, tmp_path: Path) -> None:
    store.put("x", "y")
    code = (
        "import sys; from pathlib import Path; from sage_actors.servers.research.store import ResearchStore;"
        "s = ResearchStore(Path(sys.argv[1])); s.get('x'); s.get('x'); s.get('nothing')"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(3)
    ]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    found = store.statistics()
    assert (found.hits, found.misses, found.entries) == (6, 3, 1)


def test_writers_at_once_leave_one_whole_entry(store: ResearchStore, tmp_path: Path) -> None:
    in_many(16, lambda n: ResearchStore(tmp_path).put("x", f"{n} " * 50_000))
    entry = store.get("x")
    assert entry is not None
    assert len(set(entry.findings.split())) == 1
    assert not list(folder(tmp_path).glob("*.tmp"))


def test_a_secret_among_findings_does_not_reach_the_disk(store: ResearchStore, tmp_path: Path) -> None:
    text, secret = sample("github-token", 1)
    store.put("tokens", f"we use {text} here", source=text)
    found = store.get("tokens")
    assert found is not None
    assert found.findings.startswith("we use [redacted:")
    assert not [each for each in tmp_path.rglob("*") if each.is_file() and secret in each.read_text()]


def test_a_failed_write_says_so_and_keeps_what_was_there(
    store: ResearchStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("x", "old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        store.put("x", "new")
    entry = store.get("x")
    assert entry is not None
    assert entry.findings == "old"
    assert not list(folder(tmp_path).glob("*.tmp"))


def test_a_folder_that_leads_out_of_the_project_is_refused(tmp_path: Path) -> None:
    project, outside = tmp_path / "project", tmp_path / "outside"
    (project / ".sage").mkdir(parents=True)
    outside.mkdir()
    (project / ".sage/cache").symlink_to(outside)
    with pytest.raises(StorageError, match="leads out of the project"):
        ResearchStore(project).put("x", "y")
    assert not list(outside.iterdir())


def test_an_entry_that_is_a_link_is_not_read(store: ResearchStore, tmp_path: Path) -> None:
    store.put("x", "y")
    [path] = folder(tmp_path).glob("*.json")
    elsewhere = tmp_path / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert store.get("x") is None


@pytest.mark.parametrize(
    ("topic", "findings", "confidence"),
    [(" ", "x", 0.5), ("x", "", 0.5), ("x", "y", 1.5), ("x", "y" * 8_000_001, 0.5)],
)
def test_what_cannot_be_stored_is_refused(
    store: ResearchStore, topic: str, findings: str, confidence: float
) -> None:
    with pytest.raises(UsageError):
        store.put(topic, findings, confidence=confidence)


def test_over_the_limit_the_entry_that_was_not_used_for_longest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(research_store, "_MAX_BYTES", 3500)
    now = [1_800_000_000_000]
    store = ResearchStore(tmp_path, now_ms=lambda: now[0])
    for topic in ("a", "b", "c"):
        store.put(topic, "x" * 700)
    for topic in ("b", "a", "c"):
        now[0] += 1000
        assert store.get(topic) is not None
    store.put("d", "x" * 700)
    assert [topic for topic in "abcd" if store.get(topic) is None] == ["b"]
