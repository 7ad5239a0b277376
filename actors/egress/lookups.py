"""Addresses of names, asked for in threads that may hang, so that who makes them hang waits alone.

    ask(name, room of the asker) -> the same name is asked for already? its answer
                                 -> a place in the asker's room, and in that of all -> a thread -> the answer

A name service that does not answer holds its thread for half a minute, and a rule such as `*.example.com` has names
without end. So each asker has a few threads at most, for as long as they hang, and not only while it waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

__all__ = ["Lookups", "NoRoom", "Room", "new_room"]

_MOST = 64  # threads of all askers
_MOST_OF_ONE = 4

Room = asyncio.Semaphore
"""How many names an asker may still have looked up at once."""


class NoRoom(Exception):
    """The asker waits for other names already, or the proxy does; it says nothing about this one."""


def new_room() -> Room:
    """Of one asker."""
    return asyncio.Semaphore(_MOST_OF_ONE)


class Lookups:
    """In one event loop. resolve: the addresses of a host and port; it may block, and raises OSError."""

    def __init__(self, resolve: Callable[[str, int], Sequence[str]]) -> None:
        self._resolve = resolve
        self._room_of_all = asyncio.Semaphore(_MOST)
        self._running: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    async def ask(self, host: str, port: int, room: Room, timeout_s: float) -> Sequence[str]:
        """The addresses.

        Raises:
            OSError: it cannot be resolved, or not in time.
            NoRoom: it was not even tried in time.
        """
        key = (host, port)
        found: asyncio.Future[Sequence[str]] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                found = self._running.get(key) or await self._begin(key, room)
                return await asyncio.shield(found)
        except TimeoutError:
            if found is None:
                raise NoRoom from None
            if self._running.get(key) is found:
                del self._running[key]  # who asks next has it tried anew
            raise

    async def _begin(self, key: tuple[str, int], room: Room) -> asyncio.Future[Sequence[str]]:
        await room.acquire()
        try:
            await self._room_of_all.acquire()
        except BaseException:
            room.release()
            raise
        found = self._running.get(key)
        if found is not None:  # begun by another meanwhile
            self._leave(room)
            return found
        loop = asyncio.get_running_loop()
        found = self._running[key] = loop.create_future()
        found.add_done_callback(lambda done: done.exception())  # perhaps nobody waits any more
        thread = threading.Thread(target=self._look_up, args=(loop, key, found, room), daemon=True)
        try:
            thread.start()
        except RuntimeError as cause:
            self._end(key, found, room, OSError(str(cause)))
        return found

    def _look_up(
        self,
        loop: asyncio.AbstractEventLoop,
        key: tuple[str, int],
        found: asyncio.Future[Sequence[str]],
        room: Room,
    ) -> None:
        """In a thread of its own, a daemon: an interpreter that ends does not wait for it."""
        answer: Sequence[str] | Exception
        try:
            answer = self._resolve(*key)
        except Exception as cause:  # noqa: BLE001  told to who asked
            answer = cause
        with suppress(RuntimeError):  # the proxy was closed
            loop.call_soon_threadsafe(self._end, key, found, room, answer)

    def _end(
        self,
        key: tuple[str, int],
        found: asyncio.Future[Sequence[str]],
        room: Room,
        answer: Sequence[str] | Exception,
    ) -> None:
        self._leave(room)
        if self._running.get(key) is found:
            del self._running[key]
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    def _leave(self, room: Room) -> None:
        room.release()
        self._room_of_all.release()
