"""Which nodes of one run have asked a breaker for leave to call an endpoint, and which wait to ask.

A permit is a promise about now. So few are asked ahead of need: at most `AHEAD` nodes of an endpoint hold or await
one without executing; and when a call fails, those that were not used yet are given back and asked for again,
behind the report of the failure: a breaker that opens then stops them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["AHEAD", "PermitLine"]

AHEAD = 64


class PermitLine:
    """`ask(node, endpoint)` is called when it is a node's turn to ask."""

    def __init__(self, ask: Callable[[int, str], None]) -> None:
        self._ask = ask
        self._asked: dict[str, set[int]] = {}
        self._line: dict[str, deque[int]] = {}

    def want(self, node: int, endpoint: str) -> None:
        """`node` is ready but for its permit."""
        asked = self._asked.setdefault(endpoint, set())
        if len(asked) < AHEAD:
            asked.add(node)
            self._ask(node, endpoint)
        else:
            self._line.setdefault(endpoint, deque()).append(node)

    def left(self, node: int, endpoint: str) -> None:
        """`node` executes, or needs no permit any more: the next in line asks."""
        asked = self._asked.get(endpoint)
        if asked is None or node not in asked:
            return
        asked.discard(node)
        line = self._line.get(endpoint)
        if line:
            following = line.popleft()
            asked.add(following)
            self._ask(following, endpoint)

    def asked(self, endpoint: str) -> list[int]:
        """Nodes that hold or await a permit and do not execute."""
        return sorted(self._asked.get(endpoint, ()))
