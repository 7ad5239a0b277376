"""What bounds one instance of a sub-workflow: how many of its nodes execute at once, and for how long.

    due -> is there room in every instance around it?    no: HELD, "concurrency", in that instance's line
        -> worker -> answered, lost: the room is free    -> the most urgent one of the line is due again
    time is up -> what has not begun is skipped, what executes is ended by the engine -> the node fails

A node takes its room when it becomes ready, a little before it executes: so the limit is never exceeded.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.wire import error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_savings import RunSavings

__all__ = ["Room", "RunInstances"]

_NOT_BEGUN = (st.PENDING, st.READY, st.HELD)


class Room:
    """The places of one instance. inside: nodes that are ready or execute; line: those that wait, by urgency."""

    __slots__ = ("inside", "line", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside: set[int] = set()
        self.line: list[int] = []

    def has_place(self, node: int) -> bool:
        return len(self.inside) < self.most or node in self.inside


class RunInstances(RunSavings):
    """The part of a run's decisions that keeps sub-workflows to their own limits. `RunCore` is the whole."""

    if TYPE_CHECKING:

        def _to_worker(self, node: int, operation: OperationSpec) -> None: ...
        def _skip(self, node: int, reason: str, state: int) -> None: ...
        def _end(self, node: int, state: int) -> None: ...
        def _expansion_failed(self, node: int, error: dict[str, object]) -> None: ...
        def _return_permit(self, node: int, ok: bool | None, retry_after: object) -> None: ...
        def _withdraw(self, urgencies: set[int]) -> None: ...

    # ------------------------------------------------------------------ concurrency

    def _open_room(self, owner: int) -> None:
        """`owner` became a sub-workflow: its nodes share what that says."""
        limit = self.inner[owner].plan.spec.concurrency
        if limit is not None:
            self.rooms[owner] = Room(limit)

    def _waits_for_room(self, node: int) -> bool:
        """Whether `node` must wait for another of its instance; else it has its place in each around it."""
        around = [self.rooms[owner] for owner in self.owners_of(node) if owner in self.rooms]
        for room in around:
            if not room.has_place(node):
                self.state[node] = st.HELD
                self.held[node] = "concurrency"
                heapq.heappush(room.line, self._key(node))
                return True
        for room in around:
            room.inside.add(node)
        return False

    def _leave(self, node: int) -> None:
        """`node` executes no more, nor is it about to."""
        for owner in self.owners_of(node):
            room = self.rooms.get(owner)
            if room is not None and node in room.inside:
                room.inside.remove(node)
                if room.line:
                    self.roomy.add(owner)

    def _fill_rooms(self) -> None:
        """Where a place became free, the next in line takes it."""
        while self.roomy:
            room = self.rooms.get(self.roomy.pop())
            while room is not None and room.line and len(room.inside) < room.most:
                node = self._node(heapq.heappop(room.line))
                if self.held.get(node) == "concurrency":
                    del self.held[node]
                    self.state[node] = st.PENDING
                    self._to_worker(node, self.operation(node))

    # ------------------------------------------------------------------ time

    def timeout_of(self, owner: int) -> float | None:
        """Seconds that the instance of `owner` may take: the sub-workflow's own, or the node's, if that is less."""
        said = (self.inner[owner].plan.spec.timeout, self.operation(owner).timeout)
        return min((each for each in said if each is not None), default=None)

    def _time_instance(self, owner: int) -> None:
        """Its time runs from here, less what earlier processes spent on it."""
        timeout = self.timeout_of(owner) if owner in self.inner else None
        if timeout is not None:
            left = max(0.0, timeout - self.spent_s.get(owner, 0.0))
            self.ports.timer(self, self.clock.monotonic() + left, ("instance_timeout", owner, 0))

    def is_cut(self, node: int) -> bool:
        """Whether `node` belongs to an instance whose time is up."""
        return bool(self.overdue) and any(owner in self.overdue for owner in self.owners_of(node))

    def _cut_off(self, owner: int) -> None:
        """The time of an instance is up. What executes is ended by the engine, and comes back as lost."""
        if self.state[owner] != st.EXPANDED or self.stopping is not None:
            return  # a run that stops goes on at its resume
        self.overdue.add(owner)
        waiting = [node for node in self._inside(owner) if self.state[node] in _NOT_BEGUN]
        self._withdraw({self._key(node) for node in waiting if self.state[node] == st.READY})
        for node in waiting:
            if self.state[node] in _NOT_BEGUN:
                self._cut(node)

    def _cut(self, node: int) -> None:
        """Skip a node of an instance whose time is up."""
        self.held.pop(node, None)
        self.failing.pop(node, None)
        self._return_permit(node, None, None)
        self._leave(node)
        if self.is_gate(node):
            self._end(node, st.SKIPPED)
            return
        owner = next(each for each in self.owners_of(node) if each in self.overdue)
        self._skip(node, f"the timeout of {self.id_of(owner)} was over", st.SKIPPED)

    def _fail_overdue(self, owner: int) -> None:
        """Nothing of an instance whose time was up executes any more (it must be counted as running)."""
        self.overdue.discard(owner)
        first, nodes = self.inner[owner].base, self.inner[owner].plan.visible
        done = self.state[first : first + nodes].count(st.SUCCEEDED)
        text = (
            f"{self.id_of(owner)} took longer than its timeout of {self.timeout_of(owner):g} s; "
            f"{done} of its {nodes} nodes were done"
        )
        self._give_up(owner, error_map("TimeoutExceeded", text, retryable=False))

    # ------------------------------------------------------------------ who is inside

    def owners_of(self, node: int) -> Iterator[int]:
        """The expanded nodes around `node`, the nearest first."""
        size = self.plan.size
        while node >= size:
            node = self.scopes[node - size].owner
            yield node

    def _inside(self, owner: int) -> Iterable[int]:
        """Every node of an expansion, and of those inside it."""
        first, count = self.children[owner]
        for node in range(first, first + count):
            yield node
            if node in self.children:
                yield from self._inside(node)
