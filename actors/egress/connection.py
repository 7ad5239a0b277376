"""One client of the egress proxy, from its request to its end.

    head within 10 s -> token -> target -> rule -> breaker -> addresses -> connect -> audit -> relay

Nothing goes out before the decision to allow it was reported, and nothing but a TLS handshake that names the host
goes out to a public address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import h11

from sage_actors.actors.egress.decisions import Decision, DecisionLog
from sage_actors.actors.egress.gate import Gate, Permit
from sage_actors.actors.egress.http import (
    READ_BYTES,
    Refusal,
    Streams,
    exchange,
    flush,
    new_parser,
    read_request,
    target_of,
    token_of,
)
from sage_actors.actors.egress.lookups import Lookups, NoRoom, Room, new_room
from sage_actors.actors.egress.rules import (
    Rule,
    address_problem,
    canonical_host,
    find_rule,
    hint_for,
    is_address,
    is_local,
    join_authority,
)
from sage_actors.actors.egress.tls import HANDSHAKE, NotTls, read_hello

__all__ = ["Connection", "Grant", "Services", "Timeouts"]

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"  # a fatal TLS alert, which clients name in their error
_HTTPS = 443
_BUSY_S = 1.0
_UNREACHABLE = 502  # what the breaker counts as the host's failure


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. head: to the end of a request's head, and of a ClientHello. resolve, connect: each. idle: without a
    byte in either direction, such as while a model thinks. linger: for reading the proxy's own answer."""

    head: float = 10.0
    resolve: float = 10.0
    connect: float = 10.0
    idle: float = 3600.0
    linger: float = 2.0


@dataclass(eq=False, slots=True)
class Grant:
    """What the holder of one token may reach, the tasks that serve it now, and its room for looking up names."""

    rules: tuple[Rule, ...]
    label: str
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    room: Room = field(default_factory=new_room)


class Services(Protocol):
    """What a connection needs of the proxy."""

    @property
    def timeouts(self) -> Timeouts: ...
    @property
    def log(self) -> DecisionLog: ...
    @property
    def gate(self) -> Gate | None: ...
    def admit(self, token: str) -> Grant:
        """The grant of a token, under which the current task is now counted. Refusal: there is none, or no room."""
        ...

    @property
    def lookups(self) -> Lookups: ...
    @property
    def connect(self) -> Callable[[str, int], Awaitable[Streams]]: ...


class Connection:
    """Serves one client until either side is done. Whoever cancels the task cuts both."""

    def __init__(
        self, services: Services, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._services = services
        self._client: Streams = (reader, writer)
        self._parser = new_parser()
        self._label, self._host, self._port = "", "", 0
        self._sent_bytes = self._received_bytes = 0
        self._answered = False
        self._upstream: Streams | None = None
        self._idle: asyncio.Timeout | None = None

    async def serve(self) -> None:
        """Never raises but for a cancellation."""
        try:
            await self._converse()
        except Refusal as refusal:
            await self._refuse(refusal)
        except (OSError, h11.ProtocolError):
            pass  # one side broke off: there is nobody to tell
        except Exception as error:  # noqa: BLE001  the border: whatever it is, nothing was let through by it
            await self._refuse(Refusal(500, f"the proxy failed: {type(error).__name__}"))
        finally:
            for _, writer in filter(None, (self._client, self._upstream)):
                writer.transport.abort()

    async def _converse(self) -> None:
        timeouts = self._services.timeouts
        try:
            async with asyncio.timeout(timeouts.head):
                request = await read_request(self._parser, self._client[0])
        except TimeoutError:
            return  # it asked for nothing
        grant = self._services.admit(token_of(request.headers))
        self._label = grant.label
        self._host, self._port, path = target_of(request)
        rule = self._rule(grant, is_plain=bool(path))
        permit = await self._permit()
        well: bool | None = None
        try:
            addresses = await self._addresses(rule, grant.room)
            public = [each for each in addresses if not is_local(each)]
            if path and public:
                raise self._denied(
                    "plain HTTP goes to hosts of this network only: use https://", hint="use https://"
                )
            address = await self._connect(addresses)
            well = True
            await self._relay(request, path, address, must_be_tls=bool(public) or self._port == _HTTPS)
        except Refusal as refusal:
            if refusal.status == _UNREACHABLE:
                well = False
            raise
        finally:
            if permit is not None:
                permit(well)

    # Deciding

    def _rule(self, grant: Grant, *, is_plain: bool) -> Rule:
        rule = find_rule(grant.rules, self._host, self._port)
        if rule is not None:
            return rule
        local = self._host == "localhost" or (is_address(self._host) and is_local(self._host))
        hint = hint_for(self._host, self._port, private=local or is_plain)
        if is_plain and not local:  # the port that was asked for would be refused all the same
            hint = f"use https://; or for a host of this network, {hint}"
        raise self._denied("not on the allow-list", hint=hint)

    async def _permit(self) -> Permit | None:
        gate = self._services.gate
        found = None if gate is None else await gate.ask(join_authority(self._host, self._port))
        if isinstance(found, (int, float)):
            why = f"its breaker or rate limit lets it be called in {found:.0f} s"
            raise Refusal(503, why, kind="waiting", retry_after_s=found)
        return found

    async def _addresses(self, rule: Rule, room: Room) -> Sequence[str]:
        """Where to connect: all of them were checked."""
        if is_address(self._host):
            addresses: Sequence[str] = [self._host]
        else:
            services = self._services
            try:
                addresses = await services.lookups.ask(
                    self._host, self._port, room, services.timeouts.resolve
                )
            except NoRoom:
                said = "names that were asked for before are still being looked up"
                raise Refusal(503, said, kind="waiting", retry_after_s=_BUSY_S) from None
            except (OSError, UnicodeError) as cause:  # a timeout is an OSError
                raise Refusal(
                    502, f"{self._host} cannot be resolved: {str(cause or '') or 'timed out'}"
                ) from cause
        if not addresses:
            raise Refusal(_UNREACHABLE, f"{self._host} has no address")
        for each in addresses:
            if why := address_problem(rule, each):
                private = is_address(each) and is_local(each) and not rule.private
                raise self._denied(
                    why, hint=hint_for(self._host, self._port, private=True) if private else ""
                )
        return addresses

    async def _connect(self, addresses: Sequence[str]) -> str:
        cause: OSError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(self._services.timeouts.connect):
                    self._upstream = await self._services.connect(address, self._port)
                return address
            except OSError as error:
                cause = error
        raise Refusal(
            502, f"{self._host}:{self._port} cannot be reached: {str(cause or '') or 'timed out'}"
        ) from cause

    def _denied(self, why: str, *, hint: str = "") -> Refusal:
        return Refusal(403, why, kind="denied", hint=hint)

    # Relaying

    async def _relay(self, request: h11.Request, path: bytes, address: str, *, must_be_tls: bool) -> None:
        assert self._upstream is not None
        self._allow(address)
        try:
            async with asyncio.timeout(self._services.timeouts.idle) as self._idle:
                if path:
                    await self._plain(request, path)
                else:
                    await self._tunnel(must_be_tls)
        except TimeoutError:
            pass  # silent for too long: cut
        finally:
            end = Decision(
                "end", self._label, self._host, self._port, address=address,
                sent_bytes=self._sent_bytes, received_bytes=self._received_bytes,
            )  # fmt: skip
            self._services.log.tell(end)

    def _allow(self, address: str) -> None:
        told = Decision("allow", self._label, self._host, self._port, address=address)
        try:
            self._services.log.tell(told)
        except Exception as cause:
            raise Refusal(500, "this connection could not be recorded, and is not made for that") from cause

    async def _plain(self, request: h11.Request, path: bytes) -> None:
        assert self._upstream is not None
        try:
            authority = join_authority(self._host, self._port).encode()
            await exchange(self._parser, request, path, authority, self._client, self._upstream, self._count)
            await flush(self._client[1])
            await self._finish_writing()
        except (OSError, h11.ProtocolError) as cause:
            if self._received_bytes:
                raise
            raise Refusal(_UNREACHABLE, f"{self._host}:{self._port} broke off: {cause}") from cause

    async def _tunnel(self, must_be_tls: bool) -> None:
        assert self._upstream is not None
        early = self._parser.trailing_data[0]
        self._client[1].write(_ESTABLISHED)
        self._answered = True
        back = asyncio.create_task(self._pump(self._upstream[0], self._client[1], self._count_received))
        forth = asyncio.create_task(self._send_guarded(early, must_be_tls))
        try:
            done, _ = await asyncio.wait({back, forth}, return_when=asyncio.FIRST_EXCEPTION)
            for each in done:
                each.result()
        finally:
            for each in (back, forth):
                each.cancel()
            await asyncio.gather(back, forth, return_exceptions=True)

    async def _send_guarded(self, early: bytes, must_be_tls: bool) -> None:
        """Passes the client's bytes on, once its first ones were checked."""
        assert self._upstream is not None
        reader, writer = self._client[0], self._upstream[1]
        try:
            async with asyncio.timeout(self._services.timeouts.head if must_be_tls else None):
                first = await self._first_bytes(early, must_be_tls)
        except (NotTls, TimeoutError) as cause:
            why = str(cause) or "no TLS handshake came"
            self._services.log.tell(Decision("deny", self._label, self._host, self._port, why))
            self._client[1].write(_ACCESS_DENIED)
            await self._finish_writing()
            raise ConnectionAbortedError(why) from cause
        writer.write(first)
        self._count_sent(len(first))
        await self._pump(reader, writer, self._count_sent)

    async def _first_bytes(self, data: bytes, must_be_tls: bool) -> bytes:
        """The client's first bytes, among them its whole ClientHello if they begin one.

        Raises:
            NotTls: they must be TLS and are not, or the handshake names another host.
        """
        while True:
            if data and data[0] != HANDSHAKE:
                if must_be_tls:
                    raise NotTls("only TLS goes out to this host")
                return data
            if data and (hello := read_hello(data)) is not None:
                self._check_name(hello.server_name)
                return data
            chunk = await self._client[0].read(READ_BYTES)
            if not chunk and data:
                raise NotTls("the ClientHello is cut off")
            if not chunk:
                return b""
            data += chunk

    def _check_name(self, name: str | None) -> None:
        if is_address(self._host):
            if name is not None:
                raise NotTls(f"the TLS handshake names {name[:253]!r}, and the request an address")
            return
        if name is None:
            raise NotTls("the TLS handshake names no host (SNI)")
        try:
            same = canonical_host(name) == self._host
        except ValueError:
            same = False
        if not same:
            raise NotTls(f"the TLS handshake names {name[:253]!r}, and the request {self._host!r}")

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]
    ) -> None:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            count(len(data))
            await writer.drain()
        await flush(writer)
        writer.write_eof()

    def _count_sent(self, size: int) -> None:
        self._count(size, 0)

    def _count_received(self, size: int) -> None:
        self._count(0, size)

    def _count(self, sent: int, received: int) -> None:
        self._sent_bytes += sent
        self._received_bytes += received
        if self._idle is not None and not self._idle.expired():
            self._idle.reschedule(asyncio.get_running_loop().time() + self._services.timeouts.idle)

    # Ending

    async def _refuse(self, refusal: Refusal) -> None:
        """Answers in place of the host; the decision is reported first."""
        if refusal.kind == "denied" or refusal.status == 407:
            told = Decision("deny", self._label, self._host, self._port, refusal.why, refusal.hint)
            self._services.log.tell(told)
        if self._answered or self._received_bytes:
            return  # the client would take it for the host's
        with suppress(OSError, RuntimeError):
            self._client[1].write(refusal.answer(self._host, self._port))
            await self._finish_writing()

    async def _finish_writing(self) -> None:
        """Ends what the client reads, and reads on for a moment: a reset would overtake the answer."""
        reader, writer = self._client
        with suppress(TimeoutError):
            async with asyncio.timeout(self._services.timeouts.linger):
                await flush(writer)
                writer.write_eof()
                while await reader.read(READ_BYTES):
                    pass
