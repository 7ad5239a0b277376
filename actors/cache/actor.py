"""The cache actor: asked before a cacheable node executes, told what it gave. Its files: `cache.py`.

What a key is made of: the operation and its arguments (`material`), the version of the code behind it, and, where
the answer depends on the repository, the state of that.

    AskCache    ->  CacheAnswered(entry)      a hit
                ->  CacheAnswered(None)       a miss; the answer's name is remembered until KeepResult or the end
    KeepResult      the value of an operation that was asked for; not kept if the repository changed meanwhile
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from sage_actors.actors.cache.code_version import code_version
from sage_actors.actors.cache.store import DEFAULT_TTL_S, CacheEntry, ResultCache
from sage_actors.actors.clock import Clock
from sage_actors.actors.mailbox import MailboxActor

__all__ = [
    "AskCache",
    "CacheActor",
    "CacheAnswered",
    "CacheQuestion",
    "DropQuestions",
    "KeepResult",
    "KeepWhole",
    "whole_material",
]

_log = logging.getLogger(__name__)
_STATE_S = 1.0  # for so long a repository's state is taken as unchanged between two questions
_TRIM_EVERY = 64


@dataclass(frozen=True, slots=True)
class CacheQuestion:
    """What is asked for. label: the operation for a person. material: its arguments, packed.

    code: what the code behind it is known by, see `code_version`. repository: the answer depends on the
    repository's state. ttl_s: how long an answer is good.
    """

    label: str
    material: bytes
    code: tuple[str, str] = ("", "")
    repository: bool = False
    ttl_s: float = DEFAULT_TTL_S


@dataclass(frozen=True, slots=True)
class AskCache:
    """token: (run, node). stale: an expired answer will do, since there is no other."""

    token: tuple[int, int]
    question: CacheQuestion
    search_paths: tuple[str, ...] = ()
    stale: bool = False


@dataclass(frozen=True, slots=True)
class CacheAnswered:
    token: tuple[int, int]
    entry: CacheEntry | None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class KeepResult:
    """The node that asked has this value now."""

    token: tuple[int, int]
    value: bytes
    micros: int
    usage: dict[str, Any]
    node: str


@dataclass(frozen=True, slots=True)
class KeepWhole:
    """The whole of a result of which dependents see a digest; found again by run and node."""

    run_id: str
    node: str
    value: bytes


@dataclass(frozen=True, slots=True)
class DropQuestions:
    """A run ended."""

    run: int


@dataclass(slots=True)
class _Asked:
    name: str
    question: CacheQuestion
    state: str
    version: str
    search_paths: tuple[str, ...]


class CacheActor(MailboxActor):
    """A mailbox around `ResultCache`, so that no file is touched in the supervisor's thread.

    open_cache: called once, when first needed; None means that there is no cache (no key, `durability: none`).
    deliver: gets `CacheAnswered`, must not block. Every question is answered, whatever goes wrong: with a miss.
    """

    def __init__(
        self,
        *,
        open_cache: Callable[[], ResultCache | None],
        deliver: Callable[[CacheAnswered], None],
        project: Path,
        clock: Clock,
    ) -> None:
        super().__init__()
        self._open_cache, self._deliver = open_cache, deliver
        self._project, self._clock = project, clock
        self._cache: ResultCache | None = None
        self._opened = False
        self._asked: dict[tuple[int, int], _Asked] = {}
        self._state = ("", -1e9)
        self._kept = 0
        self._first_versions: dict[tuple[str, ...], str] = {}

    def on_receive(self, message: AskCache | KeepResult | KeepWhole | DropQuestions) -> None:
        match message:
            case AskCache():
                self._ask(message)
            case KeepResult():
                self._guarded(lambda cache: self._keep(cache, message))
            case KeepWhole():
                self._guarded(lambda cache: self._keep_whole(cache, message))
            case DropQuestions():
                for token in [token for token in self._asked if token[0] == message.run]:
                    del self._asked[token]
            case _:
                assert_never(message)

    def _ask(self, message: AskCache) -> None:
        found: CacheEntry | None = None

        def look(cache: ResultCache) -> None:
            nonlocal found
            asked = self._name(cache, message)
            found = cache.get(asked.name, stale=message.stale)
            if not message.stale:
                self._asked[message.token] = asked
            if found is None and not message.stale:
                cache.count(misses=1)
            elif found is not None:
                cache.count(hits=1, tokens_saved=_tokens(found.usage))

        self._guarded(look)
        if found is not None:
            self._asked.pop(message.token, None)
        self._deliver(CacheAnswered(message.token, found, message.stale))

    def _keep(self, cache: ResultCache, message: KeepResult) -> None:
        asked = self._asked.pop(message.token, None)
        if asked is None:
            return
        if asked.question.repository and self._repository_state(fresh=True) != asked.state:
            return  # the value may be of a state that no question will name
        if self._was_edited(asked):
            return
        now = self._clock.now()
        entry = CacheEntry(
            asked.question.label,
            message.value,
            now,
            now + asked.question.ttl_s,
            message.micros,
            message.usage,
            message.node,
        )
        cache.put(asked.name, entry)
        self._count_stored(cache)

    def _keep_whole(self, cache: ResultCache, message: KeepWhole) -> None:
        now = self._clock.now()
        entry = CacheEntry(
            f"whole {message.node}", message.value, now, now + DEFAULT_TTL_S, node=message.node
        )
        cache.put(cache.name_of(whole_material(message.run_id, message.node)), entry)
        self._count_stored(cache)

    def _count_stored(self, cache: ResultCache) -> None:
        cache.count(stored=1)
        self._kept += 1
        if self._kept % _TRIM_EVERY == 1:
            cache.trim()

    def _name(self, cache: ResultCache, message: AskCache) -> _Asked:
        question, search_paths = message.question, tuple(message.search_paths)
        state = self._repository_state() if question.repository else ""
        version = self._code_version(question, search_paths)
        self._first_versions.setdefault((*question.code, *search_paths), version)
        digest = hashlib.sha256(question.material).digest()
        parts = (question.label.encode(), version.encode(), state.encode(), digest)
        name = cache.name_of(b"".join(len(part).to_bytes(4, "big") + part for part in parts))
        return _Asked(name, question, state, version, search_paths)

    def _code_version(self, question: CacheQuestion, search_paths: tuple[str, ...]) -> str:
        return code_version(*question.code, project=self._project, search_paths=search_paths)

    def _was_edited(self, asked: _Asked) -> bool:
        """While it ran, or since this supervisor first asked of it: workers that live on have the code of then."""
        code = asked.question.code
        if code[0] == "python" and self._first_versions[*code, *asked.search_paths] != asked.version:
            return True
        return self._code_version(asked.question, asked.search_paths) != asked.version

    def _repository_state(self, *, fresh: bool = False) -> str:
        from sage_actors.servers.corpus.repository import repository_state

        state, at = self._state
        now = self._clock.monotonic()
        if fresh or now - at > _STATE_S:
            state = repository_state(self._project)
            self._state = (state, self._clock.monotonic())
        return state

    def _guarded(self, act: Callable[[ResultCache], None]) -> None:
        """The cache is a help, never a reason for a run to fail."""
        try:
            if not self._opened:
                self._opened = True
                self._cache = self._open_cache()
            if self._cache is not None:
                act(self._cache)
        except Exception:  # noqa: BLE001 - the border: whoever asked goes on without
            _log.warning("the cache could not be used", exc_info=True)


def whole_material(run_id: str, node: str) -> bytes:
    """What the whole of a digested result is kept under."""
    return b"whole\0" + run_id.encode() + b"\0" + node.encode()


def _tokens(usage: dict[str, Any]) -> int:
    return int(usage.get("input_tokens") or 0) + int(usage.get("output_tokens") or 0)
