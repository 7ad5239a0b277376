"""The cache actor: what a question is known by, and that every question is answered."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_actors.actors.cache.actor import (
    AskCache,
    CacheActor,
    CacheAnswered,
    CacheQuestion,
    DropQuestions,
    KeepResult,
)
from sage_actors.actors.cache.code_version import code_version
from sage_actors.actors.cache.store import ResultCache
from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.testing import FakeClock

KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")


class Asker:
    """A cache actor of one project, and what it answered."""

    def __init__(self, project: Path, cache: ResultCache | None, *, clock: FakeClock | None = None) -> None:
        self.answers: queue.Queue[CacheAnswered] = queue.Queue()
        self.clock = clock or FakeClock()
        self.actor = CacheActor.start(
            open_cache=lambda: cache, deliver=self.answers.put, project=project, clock=self.clock
        )
        self._node = 0

    def ask(self, question: CacheQuestion, *, keep: bytes | None = None, stale: bool = False) -> Any:
        """The value that the cache has, or None; with `keep`, what the node then came to."""
        self._node += 1
        token = (1, self._node)
        self.actor.tell(AskCache(token, question, (), stale))
        answer = self.answers.get(timeout=20)
        assert answer.token == token
        if keep is not None:
            self.actor.tell(KeepResult(token, keep, 5, {"input_tokens": 3}, "run node"))
            self.actor.tell(AskCache((0, 0), CacheQuestion("the end of what was told", b""), stale=True))
            assert self.answers.get(timeout=20).entry is None
        return None if answer.entry is None else answer.entry.value


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cache", KEYS, now=lambda: 100.0)


@pytest.fixture
def asker(tmp_path: Path, cache: ResultCache) -> Iterator[Asker]:
    clock = FakeClock()
    made = Asker(tmp_path, cache, clock=clock)
    cache._now = clock.now
    yield made
    made.actor.stop(timeout=10)


def test_a_question_is_its_label_its_arguments_and_its_code(asker: Asker, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x = 1\n")
    question = CacheQuestion("python m:f", b"arguments", ("python", "m:f"))
    assert asker.ask(question, keep=b"one") is None
    assert asker.ask(question) == b"one"
    assert asker.ask(CacheQuestion("python m:f", b"others", ("python", "m:f"))) is None
    assert asker.ask(CacheQuestion("python m:g", b"arguments", ("python", "m:f"))) is None
    (tmp_path / "m.py").write_text("x = 2\n")
    assert asker.ask(question) is None


def test_an_answer_expires_and_is_stale_afterwards(asker: Asker) -> None:
    question = CacheQuestion("http", b"", ttl_s=60.0)
    asker.ask(question, keep=b"old")
    asker.clock.advance(61.0)
    assert asker.ask(question) is None
    assert asker.ask(question, stale=True) == b"old"


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.mark.requirement("ORCH-019")
def test_an_answer_about_the_repository_holds_for_its_state_alone(asker: Asker, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("cache/\n")
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    question = CacheQuestion("mcp sage-research/code_search", b"topic", repository=True)
    asker.ask(question, keep=b"of one")
    assert asker.ask(question) == b"of one"
    (tmp_path / "a.txt").write_text("another")
    asker.clock.advance(5.0)
    assert asker.ask(question) is None
    (tmp_path / "a.txt").write_text("one")
    asker.clock.advance(5.0)
    assert asker.ask(question) == b"of one"


def test_what_changed_while_it_was_researched_is_not_kept(asker: Asker, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("cache/\n")
    git(tmp_path, "init", "-q")
    question = CacheQuestion("mcp sage-research/code_search", b"topic", repository=True)
    token = (1, 99)
    asker.actor.tell(AskCache(token, question))
    assert asker.answers.get(timeout=20).entry is None
    (tmp_path / "new.txt").write_text("new")
    asker.actor.tell(KeepResult(token, b"value", 1, {}, ""))
    asker.clock.advance(5.0)
    assert asker.ask(question) is None
    (tmp_path / "new.txt").unlink()
    asker.clock.advance(5.0)
    assert asker.ask(question) is None


def test_without_a_cache_and_with_one_that_breaks_every_question_is_a_miss(tmp_path: Path) -> None:
    class Broken(ResultCache):
        def get(self, name: str, *, stale: bool = False) -> Any:
            raise OSError("the disk is gone")

    for cache in (None, Broken(tmp_path, KEYS)):
        asker = Asker(tmp_path, cache)
        try:
            assert asker.ask(CacheQuestion("x", b""), keep=b"value") is None
            assert asker.ask(CacheQuestion("x", b"")) is None
        finally:
            asker.actor.stop(timeout=10)


def test_questions_of_a_run_that_ended_are_forgotten(asker: Asker) -> None:
    question = CacheQuestion("x", b"")
    asker.actor.tell(AskCache((7, 1), question))
    asker.answers.get(timeout=20)
    asker.actor.tell(DropQuestions(7))
    asker.actor.tell(KeepResult((7, 1), b"late", 1, {}, ""))
    assert asker.ask(question) is None


def test_hits_and_misses_are_counted(asker: Asker, cache: ResultCache) -> None:
    question = CacheQuestion("x", b"")
    asker.ask(question, keep=b"v")
    for _ in range(3):
        asker.ask(question)
    counts = cache.counts()
    assert (counts.hits, counts.misses, counts.stored, counts.tokens_saved) == (3, 1, 1, 9)


@pytest.mark.parametrize("kind", ["python", "mcp", "skill", ""])
def test_code_that_is_nowhere_is_known_by_nothing_that_changes(kind: str, tmp_path: Path) -> None:
    first = code_version(kind, "nowhere", project=tmp_path)
    assert first == code_version(kind, "nowhere", project=tmp_path)


def test_the_code_of_packages_modules_skills_and_servers_is_what_their_files_hold(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / ".agents/skills/review").mkdir(parents=True)
    for kind, name, file in (
        ("python", "pkg:f", "pkg/__init__.py"),
        ("python", "mod:f", "mod.py"),
        ("skill", "review", ".agents/skills/review/SKILL.md"),
        ("mcp", "github", ".mcp.json"),
    ):
        (tmp_path / file).write_text("one")
        before = code_version(kind, name, project=tmp_path)
        (tmp_path / file).write_text("two")
        assert code_version(kind, name, project=tmp_path) != before
    assert code_version("sage", "sage-research", project=tmp_path)
