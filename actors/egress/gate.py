"""The breaker in front of the egress proxy: may this host be called now?

An endpoint is named `host:port`, so that `[breakers."api.example.com:443"]` of a configuration applies to each
connection. A permit is held for as long as the connection.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from sage_actors.actors.breaker.actor import (
    Event,
    Forget,
    Granted,
    Message,
    Refused,
    Report,
    Request,
    Waiting,
    Withdraw,
)

__all__ = ["BreakerGate", "Gate", "Permit"]

Permit: TypeAlias = Callable[[bool | None], None]
"""Called once when the connection ended: whether the host answered; None if that says nothing about it."""

_PATIENCE_S = 10.0
_REFUSED_S = 60.0
_KIND = "egress"


class Gate(Protocol):
    """Says whether a host may be called."""

    async def ask(self, endpoint: str) -> Permit | float:
        """A permit, or the seconds after which to ask again."""
        ...


class BreakerGate:
    """Asks the breaker actor. Its events must be led to `deliver`, which takes those that are meant for it.

    tell: sends a message to the breaker's mailbox; patience_s: how long a connection waits for its permit.
    """

    def __init__(
        self,
        tell: Callable[[Message], Any],
        *,
        patience_s: float = _PATIENCE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tell = tell
        self._patience_s = patience_s
        self._now = now
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[float | None]]] = {}

    async def ask(self, endpoint: str) -> Permit | float:
        """See `Gate`."""
        number = next(self._numbers)
        token = (_KIND, number)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[float | None] = loop.create_future()
        self._asked[number] = (loop, answer)
        wait_s: float | None = 1.0
        try:
            self._tell(Request(endpoint, token))
            async with asyncio.timeout(self._patience_s):
                wait_s = await answer
        except TimeoutError:
            pass
        finally:
            del self._asked[number]
            if wait_s is not None:  # also when it was cancelled
                self._tell(Withdraw(token))
        return self._permit(endpoint, token) if wait_s is None else wait_s

    def deliver(self, event: Event) -> bool:
        """Takes an event of the breaker, from any thread; False if it is for somebody else."""
        token = getattr(event, "token", None)
        if not (isinstance(token, tuple) and len(token) == 2 and token[0] == _KIND):
            return False
        found = self._asked.get(token[1])
        if found is not None and (answer := self._answer(event)) is not False:
            loop, future = found
            loop.call_soon_threadsafe(_resolve, future, answer)
        return True

    def _answer(self, event: Event) -> float | bool | None:
        """None: granted. Seconds: not within our patience. False: wait on."""
        match event:
            case Granted():
                return None
            case Refused():
                return _REFUSED_S
            case Waiting(until=until) if until is not None and until - self._now() > self._patience_s:
                return max(1.0, until - self._now())
        return False

    def _permit(self, endpoint: str, token: tuple[str, int]) -> Permit:
        def end(ok: bool | None) -> None:
            self._tell(Forget(token) if ok is None else Report(endpoint, token, ok))

        return end


def _resolve(future: asyncio.Future[float | None], answer: float | None) -> None:
    if not future.done():
        future.set_result(answer)
