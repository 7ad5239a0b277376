"""The state actor: the only one who writes checkpoints. What waits in its inbox becomes one group commit.

    tell(Append) ... tell(Append)            while an fsync runs, the inbox fills
            \\      |      /
         one frame a run, written
                   |
         one fdatasync a run that asked for it (several runs: at the same time)
                   |
         deliver(Committed)   or, once, deliver(CommitFailed); after that the run accepts nothing

An fsync costs hundreds of microseconds whatever it covers: so the busier the engine, the cheaper a record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from sage_actors.actors.audit import commit as audit_commit
from sage_actors.actors.audit.actor import RunAudit
from sage_actors.actors.mailbox import MailboxActor
from sage_actors.actors.state.journal_format import MAX_PLAINTEXT_BYTES, Location
from sage_actors.messages.errors import (
    LimitExceeded,
    Problem,
    SageError,
    SecretInStateError,
    StorageError,
    UsageError,
)
from sage_actors.messages.records import LogLines, NodeFailed, NodesSucceeded, Record, encode_records
from sage_actors.messages.secret_values import KnownValues

__all__ = ["Append", "CloseRun", "CommitFailed", "Committed", "OpenRun", "StateActor", "Writer"]

_log = logging.getLogger(__name__)

_SYNC_THREADS = 4
# A frame is opened whole to get at one result in it, so a large group becomes several frames.
_FRAME_TARGET_BYTES = 1 << 20
_LONGEST_ARRAY_HEAD_BYTES = 5
_SAID = (LogLines, NodeFailed, NodesSucceeded)  # records of what workers said


class Writer(Protocol):
    """What `JournalWriter` offers."""

    def append(self, plaintext: bytes) -> Location: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...

    @property
    def tag(self) -> bytes: ...


Ack: TypeAlias = tuple[object, Location | None, int]
Deliver: TypeAlias = "Callable[[Committed | CommitFailed], object]"


@dataclass(frozen=True, slots=True)
class OpenRun:
    """From now on `run` is written by `writer`, which the actor owns and closes; events go to `deliver`.

    `deliver` is called in the actor's thread and must not block: an actor's `tell`. A result, an error or output
    that holds one of `secrets` is not written: the run ends as if the disk had failed. `audit` is told of every
    frame; where it cannot record what it must, the run ends like that, too.
    """

    run: int
    writer: Writer
    deliver: Deliver
    secrets: KnownValues | None = None
    audit: RunAudit | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Write `records`, all in one frame (at most 64 MiB). With a `token` the sender hears of it.

    `sync`: the answer comes after an fsync that covers the records; else after the write. Without `sync` and
    `token` the records ride along with the next group and cause no fsync.
    """

    run: int
    records: list[Record]
    sync: bool
    token: object | None = None


@dataclass(frozen=True, slots=True)
class CloseRun:
    """Sync and close the run's journal. Always answered when it has a token: (token, None, 0)."""

    run: int
    token: object | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """For each message with a token: (token, its frame's location, its first record's index in the frame)."""

    run: int
    acks: list[Ack]


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """What was not acknowledged of this run will not be; `tokens` are those of the messages it refuses.

    Some of it may be on disk all the same: read the journal again, and go on in a new segment.
    """

    run: int
    error: SageError
    tokens: list[object] = field(default_factory=list)


_Message: TypeAlias = OpenRun | Append | CloseRun
_OWN = (OpenRun, Append, CloseRun)


class _Run:
    """One open run, and what the present group does to it."""

    __slots__ = (
        "appends",
        "audit",
        "closing",
        "deliver",
        "error",
        "location",
        "number",
        "secrets",
        "synced_acks",
        "unanswered",
        "wants_sync",
        "writer",
    )

    def __init__(self, message: OpenRun) -> None:
        self.number, self.writer, self.deliver = message.run, message.writer, message.deliver
        self.secrets, self.audit = message.secrets, message.audit
        self.location: Location | None = None
        self.error: SageError | None = None
        self.begin_group()

    def begin_group(self) -> None:
        self.appends: list[Append] = []
        self.closing: CloseRun | None = None
        self.wants_sync = False
        self.synced_acks: list[Ack] = []
        self.unanswered: list[object] = []


class StateActor(MailboxActor):
    """Owns the writers of all runs. Speak to it by `tell` with `OpenRun`, `Append` and `CloseRun`.

    Commits of a run happen in the order of the tells. A failure of one run's disk touches no other run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[int, _Run] = {}
        self._syncers: ThreadPoolExecutor | None = None

    def on_receive(self, message: Any) -> None:
        """Commit `message` together with everything of ours that waits behind it."""
        if type(message) not in _OWN:
            super().on_receive(message)  # which logs it: a stray message must not end everybody's runs
            return
        envelopes = self._drain()
        try:
            self._commit([message, *(each.message for each in envelopes)])
        except BaseException as error:
            _answer_asks(envelopes, error)
            self._end(StorageError(f"the state actor failed ({error!r}); resume the run"))
            raise
        _answer_asks(envelopes, None)

    def on_stop(self) -> None:
        self._end(StorageError("the state actor was stopped while the run was open; resume the run"))

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(StorageError(f"the state actor failed ({exception_value!r}); resume the run"))

    def _drain(self) -> list[Any]:
        """Our messages at the head of the inbox, up to one of pykka's own (which it must handle itself)."""
        waiting = self.actor_inbox.take_all()
        for i, envelope in enumerate(waiting):
            if type(envelope.message) not in _OWN:
                self.actor_inbox.put_back(waiting[i:])
                return waiting[:i]
        return waiting

    def _drain_all(self) -> list[Any]:
        """All our messages in the inbox, whatever stands between them."""
        waiting = self.actor_inbox.take_all()
        self.actor_inbox.put_back([each for each in waiting if type(each.message) not in _OWN])
        return [each for each in waiting if type(each.message) in _OWN]

    def _commit(self, messages: Iterable[_Message]) -> None:
        touched: dict[int, _Run] = {}
        for message in messages:
            run = touched.get(message.run)
            if run is not None and (run.closing or isinstance(message, OpenRun)):
                self._finish(touched)  # something follows the end of a run: end it first
                touched, run = {}, None
            if isinstance(message, OpenRun):
                self._open(message)
                continue
            run = run or self._runs.get(message.run)
            if run is None:
                _log.error("run %d is not open: %s refused", message.run, type(message).__name__)
                continue
            touched[message.run] = run
            if isinstance(message, CloseRun):
                run.closing = message
            else:
                run.appends.append(message)
        self._finish(touched)

    def _open(self, message: OpenRun) -> None:
        if message.run in self._runs:
            message.writer.close()
            error = UsageError(f"run {message.run} is open already")
            _call(message.deliver, CommitFailed(message.run, error))
            return
        self._runs[message.run] = _Run(message)
        if message.audit is not None:
            number, deliver = message.run, message.deliver
            message.audit.on_failure(lambda error: _call(deliver, CommitFailed(number, error)))

    def _finish(self, touched: dict[int, _Run]) -> None:
        """Write, sync, tell, close: each step for all runs before the next."""
        runs = list(touched.values())
        for run in runs:
            _write(run)
        self._sync([run for run in runs if run.wants_sync and run.error is None])
        audit_commit.note(runs)
        for run in runs:
            _answer(run)
            if run.closing:
                self._close(run, run.closing)
            run.begin_group()

    def _sync(self, runs: list[_Run]) -> None:
        """All at once: an fsync waits for the device and not for the interpreter."""
        if len(runs) < 2:
            _sync_each(runs)
            return
        if self._syncers is None:
            self._syncers = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="state-sync")
        shares = [runs[i::_SYNC_THREADS] for i in range(min(_SYNC_THREADS, len(runs)))]
        list(self._syncers.map(_sync_each, shares))  # a call each would cost more than many an fsync

    def _close(self, run: _Run, message: CloseRun) -> None:
        del self._runs[run.number]
        audit_commit.leave_head(run)
        run.writer.close()
        if message.token is not None:
            _call(run.deliver, Committed(run.number, [(message.token, None, 0)]))

    def _end(self, error: StorageError) -> None:
        """The one clean-up: nobody who waits is left without an answer."""
        waiting: dict[int, list[object]] = {}
        envelopes = self._drain_all()
        for message in (each.message for each in envelopes):
            if isinstance(message, OpenRun):
                self._open(message)
            elif message.token is not None:
                waiting.setdefault(message.run, []).append(message.token)
        _answer_asks(envelopes, error)
        runs, self._runs = self._runs, {}
        for run in runs.values():
            if run.error is None:
                _sync(run)  # what was written counts, relaxed records too
            audit_commit.leave_head(run)
            run.writer.close()
            tokens = [*run.unanswered, *waiting.get(run.number, [])]
            _call(run.deliver, CommitFailed(run.number, run.error or error, tokens))
        if self._syncers is not None:
            self._syncers.shutdown(wait=False)


def _write(run: _Run) -> None:
    """Write the group's appends; acknowledge those that wait for the write only."""
    appends = run.appends
    run.unanswered = [each.token for each in appends if each.token is not None]
    if run.error is not None:
        return
    if appends and (head := audit_commit.head_of(run)) is not None:
        appends.append(Append(run.number, [head], False))
    acks: list[Ack] = []
    try:
        if run.secrets:
            _refuse_secrets(appends, run.secrets)
        for messages, plaintext in _frames(appends):
            location, index = run.writer.append(plaintext), 0
            run.location = location
            for message in messages:
                if message.token is not None:
                    (run.synced_acks if message.sync else acks).append((message.token, location, index))
                index += len(message.records)
    except Exception as cause:  # noqa: BLE001 - a record that cannot be packed, too, ends its run and not the actor
        run.error = _as_error(cause)
        return
    run.wants_sync = run.closing is not None or any(each.sync for each in appends)
    if acks:
        run.unanswered = [token for token, _, _ in run.synced_acks]
        _call(run.deliver, Committed(run.number, acks))


def _refuse_secrets(appends: list[Append], secrets: KnownValues) -> None:
    """The last look at what workers said. The supervisor took every known value out before: this is its witness."""
    for append in appends:
        for record in append.records:
            if isinstance(record, _SAID) and secrets.is_in(encode_records([record])):
                raise SecretInStateError(
                    [Problem("", f"a {type(record).__name__} holds a known secret, and was not written")],
                    source="the journal",
                )


def _sync_each(runs: list[_Run]) -> None:
    for run in runs:
        _sync(run)


def _sync(run: _Run) -> None:
    try:
        run.writer.sync()
    except Exception as cause:  # noqa: BLE001 - one run's disk must not take the others along
        run.error = _as_error(cause)


def _answer(run: _Run) -> None:
    """Tell how the group ended; of an earlier failure, only who sent appends since."""
    unanswered, run.unanswered = run.unanswered, []
    if run.error is None:
        if run.synced_acks:
            _call(run.deliver, Committed(run.number, run.synced_acks))
    elif run.appends or run.wants_sync:
        _call(run.deliver, CommitFailed(run.number, run.error, unanswered))


def _as_error(cause: Exception) -> SageError:
    if isinstance(cause, SageError):
        return cause
    error = StorageError(f"a checkpoint could not be written: {cause!r}")
    error.__cause__ = cause
    return error


def _call(deliver: Deliver, event: Committed | CommitFailed) -> None:
    try:
        deliver(event)
    except Exception:  # noqa: BLE001 - who asked is gone; other runs still need this actor
        _log.exception("nobody took %s of run %d", type(event).__name__, event.run)


def _answer_asks(envelopes: list[Any], error: BaseException | None) -> None:
    """Who used `ask` is answered as well."""
    for envelope in envelopes:
        if envelope.reply_to is None:
            continue
        if error is None:
            envelope.reply_to.set(None)
        else:
            envelope.reply_to.set_exception((type(error), error, error.__traceback__))


def _frames(appends: list[Append]) -> Iterator[tuple[list[Append], bytes]]:
    """The appends in groups, in order, each with its frame's plaintext: one list of all their records."""
    group: list[Append] = []
    bodies: list[bytes] = []
    size = count = 0
    for message in appends:
        body = _body(message.records)
        if group and size + len(body) > _FRAME_TARGET_BYTES:
            yield group, _array_head(count) + b"".join(bodies)
            group, bodies, size, count = [], [], 0, 0
        group.append(message)
        bodies.append(body)
        size += len(body)
        count += len(message.records)
    if group:
        yield group, _array_head(count) + b"".join(bodies)


def _body(records: list[Record]) -> bytes:
    """The packed records without the head of their list, so that lists can be joined without packing anew."""
    packed = encode_records(records)
    if len(packed) + _LONGEST_ARRAY_HEAD_BYTES > MAX_PLAINTEXT_BYTES:
        raise LimitExceeded(f"an append of {len(packed)} bytes; the limit is {MAX_PLAINTEXT_BYTES}")
    return packed[len(_array_head(len(records))) :]


def _array_head(count: int) -> bytes:
    """msgpack's head of an array."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")
