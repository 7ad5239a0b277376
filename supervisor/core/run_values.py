"""What the nodes of one run returned, and what references to it mean. Decides nothing.

A result stays packed; it is opened where a reference asks for a part of it. Secrets are handed to workers, and
taken out of what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from sage_actors.actors.workers.output import ATTEMPT_CAP_BYTES
from sage_actors.actors.workers.redaction import add_note
from sage_actors.messages.codec import MAX_RESULT_BYTES, WITHHELD, embed, pack, reveal, unpack
from sage_actors.messages.errors import ExpressionError, ProtocolError, ResultError, SageError
from sage_actors.messages.records import LogLines
from sage_actors.messages.secret_scan import Finding, redact_packed, without_known
from sage_actors.messages.secret_values import hand_over
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import node_number
from sage_actors.supervisor.core.ports import Scope
from sage_actors.supervisor.core.run_state import RunState
from sage_actors.supervisor.definitions.references import Reference, Template

__all__ = ["GATHER", "RunValues"]

GATHER = b""  # the packed result of an expanded node: made of its children's when it is read
_NIL = pack(None)
# Of the 64 that say where a result is: its record in the frame (which holds at most 64 MiB), and its row in the
# record (of one worker's answers). The rest counts frames.
_RECORD_BITS, _ROW_BITS = 24, 16
_MOST_PRINTED = (
    8 * ATTEMPT_CAP_BYTES
)  # of an attempt: what a worker lets through, with all that redaction may add
_ROW_CHARS = 16  # what a row costs besides its text


class RunValues(RunState):
    """The part of a run's state that is results, arguments and secrets. `RunCore` is the whole."""

    # ------------------------------------------------------------------ values

    def value(self, node: int) -> bytes | None:
        """The packed result of a node as anybody may see it, None if it has none."""
        if self.state[node] not in (st.SUCCEEDED, st.COMMITTING):
            return None
        if self.withholds and self.operation(node).secret_outputs:
            return WITHHELD
        return self._value(node)

    def _value(self, node: int) -> bytes | None:
        packed = self.values.get(node)
        if packed is None:
            if not self.where_stored[node]:
                return None  # what is being written down is a failure
            packed = self.ports.stored_value(self, self._location(node))
        if packed == GATHER:
            packed = self._gather(node)
        return packed

    def stored(self, node: int) -> bytes:
        """The result of a node as it is on disk: empty where it is that of its children."""
        return self.ports.stored_value(self, self._location(node))

    def _location(self, node: int) -> tuple[Any, int, int]:
        stored = self.where_stored[node]
        record = (stored >> _ROW_BITS) & ((1 << _RECORD_BITS) - 1)
        return self.frames[(stored >> _ROW_BITS + _RECORD_BITS) - 1], record, stored & ((1 << _ROW_BITS) - 1)

    def note_location(self, rows: list[Any], location: Any, first_record: int) -> None:
        if location is None:
            return
        if not self.frames or self.frames[-1] != location:
            self.frames.append(location)
        place = (len(self.frames) << _ROW_BITS + _RECORD_BITS) | (first_record << _ROW_BITS)
        stored = self.where_stored
        for i, row in enumerate(rows):
            stored[row[0]] = place | i
        if self.values:
            for row in rows:
                node = row[0]
                if not self.uses.get(node) and node not in self.children:
                    self.values.pop(node, None)

    def _gather(self, node: int) -> bytes:
        """An expanded node's result, put together from its children's without decoding them."""
        inner = self.inner.get(node)
        if inner is not None:
            leaves = inner.plan.leaves()
            parts = [_map_header(len(leaves))]
            for leaf in leaves:
                parts += [pack(inner.plan.ids[leaf]), self.value(inner.base + leaf) or _NIL]
        else:
            first, count = self.children[node]
            parts = [_array_header(count)]
            parts += [self.value(first + i) or _NIL for i in range(count)]
        if sum(map(len, parts)) > MAX_RESULT_BYTES:
            raise ResultError(self._too_large(node))
        return b"".join(parts)

    def _too_large(self, node: int) -> str:
        return (
            f"the results of {self.id_of(node)} together exceed {MAX_RESULT_BYTES:,} bytes: have its operations write "
            "files, and return their paths"
        )

    def weigh(self, node: int, packed: bytes) -> None:
        """`node` has this result, which may be a part of another one's."""
        scope, local = self.where(node)
        if scope.owner >= 0 and (scope.only >= 0 or scope.plan.is_leaf(local)):
            self.sizes[scope.owner] = self.sizes.get(scope.owner, 0) + len(packed)

    def _size_of(self, node: int) -> int:
        """Bytes of an expanded node's result, about: what `_gather` would make of it."""
        first, count = self.children[node]
        inner = self.inner.get(node)
        nested = [each for each in range(first, first + count) if each in self.children]
        if inner is not None:
            nested = [each for each in nested if inner.plan.is_leaf(each - inner.base)]
        return self.sizes.get(node, 0) + sum(map(self._size_of, nested))

    def _handed(self, node: int) -> bytes | None:
        """The packed result of a node for a worker that needs it, secret or not."""
        packed = self.value(node)
        if packed != WITHHELD:
            return packed
        packed = self.values.get(node)
        if packed is None:
            raise ResultError(
                f"the secret output of {self.id_of(node)} is gone; change its `version`, and resume"
            )
        return packed

    def _decoded(self, node: int) -> Any:
        if node in self.decoded:
            return self.decoded[node]
        packed = self._handed(node)
        if packed is None:
            return None  # it may still get one, when it is tried again
        value = unpack(packed)
        while len(self.decoded) >= 8:
            self.decoded.pop(next(iter(self.decoded)))
        self.decoded[node] = value
        return value

    def _release_values(self, node: int) -> None:
        """`node` ended: what it referred to may be forgotten once nobody else needs it."""
        if self.volatile:
            return
        scope, local = self.where(node)
        used = scope.plan.references.get(local)
        if used is None or scope.only >= 0:
            return
        for each in used:
            number = scope.base + each
            left = self.uses.get(number, 0) - 1
            self.uses[number] = left
            if left <= 0:
                self.values.pop(number, None)
                self.decoded.pop(number, None)

    def results(self) -> dict[str, Any]:
        """Results of the nodes that nothing depends on, by id."""
        out: dict[str, Any] = {}
        for node in self.plan.leaves():
            packed = self.value(node)
            out[self.plan.ids[node]] = None if packed is None else reveal(packed)
        return out

    # ------------------------------------------------------------------ templates

    def evaluate(self, scope: Scope, local: int, template: Template) -> Any:
        """`template` with every value opened."""
        return template.evaluate(self._look_up(scope, local, closed=False))

    def _look_up(
        self, scope: Scope, local: int, *, closed: bool, told: list[tuple[str, str]] | None = None
    ) -> Callable[[Reference], Any]:
        """Finds what a reference means. `closed`: whole results stay packed, for a worker to open.

        told: collects the secrets that a worker is handed. What the engine itself evaluates gets none: it
        would write them down.
        """
        phase = scope.plan.spec.nodes[local].phase

        def find(reference: Reference) -> Any:
            kind = reference.kind
            if kind == "node":
                node = scope.base + node_number(scope.plan, phase, reference.name)
                if self.withholds and self.operation(node).secret_outputs:
                    self._tell(told, self._texts_of(node), reference)
                if closed and reference.expression is None and reference.whole:
                    packed = self._handed(node)
                    return None if packed is None else embed(packed)
                return self._decoded(node)
            if kind == "input":
                return scope.inputs.get(reference.name)
            if kind == "item":
                return scope.item
            if kind == "index":
                return scope.index
            secret = self.ports.secret(kind, reference.name)
            self._tell(told, [(f"{kind}.{reference.name}", secret)], reference)
            return secret

        return find

    def _tell(
        self, told: list[tuple[str, str]] | None, secrets: list[tuple[str, str]], reference: Reference
    ) -> None:
        if told is None:
            raise ExpressionError(
                f"{reference.place}: ${{{reference.name}}} is a secret: it can be handed to a worker only, "
                "in `arguments` or in a field of an operation that a worker carries out"
            )
        told += secrets

    def _texts_of(self, node: int) -> list[tuple[str, str]]:
        """(id, text) for each text in a secret result."""
        packed = self._handed(node)
        return [] if packed is None else [(self.id_of(node), text) for text in _texts(reveal(packed))]

    def payload(self, node: int) -> bytes:
        """What the worker gets: the arguments, packed, and which secrets are in them."""
        scope, local = self.where(node)
        payload = scope.plan.payloads[local]
        if isinstance(payload, bytes):
            return payload
        told: list[tuple[str, str]] = []
        value = payload.evaluate(self._look_up(scope, local, closed=True, told=told))
        packed = pack(value, what=f"the arguments of {self.id_of(node)}")
        if not told:
            return packed
        self.secrets.add(told)
        return hand_over(packed, told)

    def _opened(self, scope: Scope, local: int) -> dict[str, Any]:
        """The payload of a node that the engine itself carries out, with every value opened."""
        payload = scope.plan.payloads[local]
        return dict(unpack(payload) if isinstance(payload, bytes) else self.evaluate(scope, local, payload))

    def _config(self, scope: Scope, local: int) -> dict[str, Any]:
        return dict(self._opened(scope, local)["config"])

    def _question(self, node: int) -> str:
        """What an approval asks."""
        try:
            return str(self._config(*self.where(node)).get("message") or "")
        except SageError:
            return ""  # a value that it shows cannot be read any more; the question stands all the same

    # ------------------------------------------------------------------ secrets

    def without_secrets(self, value: Any) -> Any:
        """A value from a worker without what this run knows to be secret."""
        return without_known(value, self.secrets) if self.secrets else value

    def cleaned(self, packed: bytes) -> bytes:
        """The same for a packed value."""
        return self._without_known(packed)[0] if self.secrets else packed

    def _clean(self, rows: list[list[Any]]) -> None:
        """Take known secrets out of result rows: not every worker was told of them, nor is each to be believed."""
        for row in rows:
            if self.withholds and self.operation(row[1]).secret_outputs:
                continue
            row[5], findings = self._without_known(row[5])
            row[6] = add_note(self._clean_usage(row[6]), findings)

    def _without_known(self, packed: bytes) -> tuple[bytes, list[Finding]]:
        try:
            return redact_packed(packed, known=self.secrets, only_known=True)
        except ProtocolError as cause:  # nobody could read it: not even whether it holds a secret
            return pack(f"[cannot be read: {cause}]"), []

    def _clean_usage(self, usage: dict[str, Any] | None) -> dict[str, Any] | None:
        whole = usage.pop("whole", None) if usage else None
        usage = self.without_secrets(usage)
        if usage is not None and whole is not None:
            usage["whole"] = self.cleaned(whole)
        return usage

    def _withhold(self, row: list[Any]) -> None:
        """Keep a secret result, [node, attempt, microseconds, result, usage], in memory; the row says there is one."""
        node = row[0]
        self.values[node] = row[3]
        self.secrets.add(self._texts_of(node))
        row[3] = WITHHELD

    def log_lines(self, rows: list[list[Any]]) -> None:
        """Output of operations, rows of [node, attempt, stream, text]; those of no attempt are dropped."""
        rows = self.without_secrets([row for row in rows if self._may_print(row)])
        if not rows:
            return
        self._persist([LogLines(self.clock.now(), rows)])
        for node, attempt, stream, text in rows:
            self.emit("node_log", node, attempt=attempt, stream=stream, text=text)

    def _may_print(self, row: list[Any]) -> bool:
        """Whether this is output of an attempt that began, within what all attempts at its node may print: workers cut
        it sooner (`LogBook`), but one that ran foreign code need not."""
        node, attempt, text = row[0], row[1], row[3]
        if not (0 <= node < len(self.state) and 0 < attempt <= self.attempts[node] and text):
            return False
        printed = self.printed[node] = self.printed.get(node, 0) + _ROW_CHARS + len(text)
        most: int = self.attempts[node] * _MOST_PRINTED
        return printed <= most


def _array_header(count: int) -> bytes:
    return bytes(msgpack.Packer().pack_array_header(count))


def _map_header(count: int) -> bytes:
    return bytes(msgpack.Packer().pack_map_header(count))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
