"""One run over all its lives, and what was seen of it: enough to say whether a guarantee was broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sage_actors.messages.codec import unpack
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.records import NodeFailed, NodeLost, NodesSucceeded
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import Plan
from sage_actors.supervisor.core.run_core import RunCore
from simulation.journal import Journal
from simulation.oracle import Oracle

__all__ = ["Script", "Violation", "check_end", "check_journal", "check_restored", "ensure"]

_NAMES = {
    st.SUCCEEDED: "succeeded",
    st.FAILED: "failed",
    st.TOLERATED: "tolerated",
    st.DROPPED: "dropped",
    st.SKIPPED: "skipped",
    st.EXCUSED: "skipped",
}


class Violation(AssertionError):
    """A guarantee was broken."""

    def __init__(self, guarantee: str, text: str) -> None:
        super().__init__(f"{guarantee}: {text}")
        self.guarantee = guarantee


def ensure(condition: object, guarantee: str, text: object) -> None:
    if not condition:
        raise Violation(guarantee, str(text))


@dataclass(slots=True)
class Script:
    """A run as its user sees it. seed: of the fates. tainted: people changed what comes out."""

    index: int
    seed: str
    spec: WorkflowSpec
    inputs: dict[str, Any]
    durability: str
    waits_for_people: bool
    timeout: float | None
    patience_s: float
    disk_fails_at: list[int]
    journal: Journal = field(default_factory=Journal)
    plans: dict[str, Plan] = field(default_factory=dict)
    emitted: dict[str, Any] = field(default_factory=dict)  # node_succeeded was told
    struck: dict[str, int] = field(default_factory=dict)  # how often its fate struck a node
    values: dict[str, Any] = field(default_factory=dict)  # what an operation really returned
    executing_once: dict[str, str] = field(default_factory=dict)
    died: dict[int, int] = field(default_factory=dict)  # a worker died, by itself, while it executed the node
    fell_back: set[str] = field(default_factory=set)
    tainted: bool = False
    openings: int = 0
    status: str = ""
    reason: str = ""
    final: bool = False
    asks: bool = False  # it ended while approvals were open
    ends: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return f"run{self.index}"

    @property
    def volatile(self) -> bool:
        return self.durability == "none"

    def lose(self, *, power: bool) -> None:
        """A supervisor died, perhaps with the machine: what was promised must have survived."""
        if self.volatile:
            self.emitted.clear()
            self.executing_once.clear()
            return
        core_ids = {node.id: number for number, node in enumerate(self.spec.nodes)}
        survived = self.journal.written.succeeded
        lost = [each for each in self.emitted if each in core_ids and core_ids[each] not in survived]
        if self.durability == "strict" or not power:
            ensure(not lost, "G-04", f"{lost} had succeeded, and the journal does not say so")
        if power and self.durability == "relaxed":
            self.emitted.clear()  # rebuilt from what is restored


def check_restored(script: Script, core: RunCore) -> None:
    """What the journal gives back is what was told."""
    for node_id, value in script.emitted.items():
        node = core.find(node_id)
        ensure(node is not None, "G-04", f"{node_id} had succeeded and is not there")
        assert node is not None
        ensure(core.state[node] == st.SUCCEEDED, "G-04", f"{node_id} had succeeded, now {core.state[node]}")
        packed = core.value(node)
        ensure(packed is not None and unpack(packed) == value, "G-02", f"{node_id}: its result changed")
    for node in range(len(core.state)):
        if core.state[node] == st.SUCCEEDED and not core.is_gate(node):
            packed = core.value(node)
            ensure(packed is not None, "G-02", f"{core.id_of(node)} is done without a result")
            assert packed is not None
            script.emitted.setdefault(core.id_of(node), unpack(packed))
    ensure(core.crashes == script.journal.written.charged, "G-09", f"{core.crashes} is not what is on disk")


def check_journal(script: Script, core: RunCore) -> None:
    """What the whole journal says, over all lives."""
    won: set[int] = set()
    answers: dict[int, int] = {}
    charged: dict[int, int] = {}
    for record in script.journal.records():
        if isinstance(record, NodesSucceeded):
            for row in record.rows:
                ensure(row[0] not in won, "G-06", f"two attempts of {core.id_of(row[0])} won")
                won.add(row[0])
        elif isinstance(record, NodeLost):
            charged[record.node] = charged.get(record.node, 0) + record.charged
        elif isinstance(record, NodeFailed):
            _check_failure(record, core, answers, charged)
    for node, crashes in core.crashes.items():
        seen = script.died.get(node, 0)
        ensure(crashes <= seen, "G-08", f"{core.id_of(node)}: {crashes} crashes, {seen} deaths seen")


def _check_failure(
    record: NodeFailed, core: RunCore, answers: dict[int, int], charged: dict[int, int]
) -> None:
    node, operation = record.node, core.operation(record.node)
    kind = record.error["type"]
    if kind == "PoisonedError":
        ensure(
            charged.get(node, 0) >= operation.max_crashes, "G-08", f"{core.id_of(node)} was poisoned early"
        )
    if kind not in ("SimError", "TimeoutExceeded", "LimitExceeded"):
        return
    answers[node] = answers.get(node, 0) + 1
    most = operation.retry.max_attempts
    ensure(answers[node] <= most, "G-10", f"{core.id_of(node)}: {answers[node]} answers, at most {most}")
    if record.retry_at is None:
        answers[node] = 0


def note_end(script: Script, core: RunCore) -> None:
    """Keep how each node ended and what came out."""
    script.ends = {
        core.id_of(node): _NAMES.get(core.state[node], "stuck")
        for node in range(len(core.state))
        if not core.is_gate(node)
    }
    script.results = core.results()
    script.asks = "approval" in core.held.values()


def check_end(script: Script) -> None:
    """G-14: the end is what the rules say."""
    if script.tainted:
        return
    oracle = Oracle(script.seed, script.fell_back)
    status = oracle.solve(script.spec, script.inputs)
    ensure(script.status == status, "G-14", f"the run {script.status} ({script.reason}), must have {status}")
    for node_id, end in oracle.ends.items():
        is_now = script.ends.get(node_id, "absent")
        ensure(is_now == end.state, "G-14", f"{node_id} {is_now}, must have {end.state}")
    extra = script.ends.keys() - oracle.ends.keys()
    open_children = {each for each in extra if script.ends[each] != "stuck"}
    ensure(not open_children, "G-14", f"{open_children} should not exist")
    for node_id, value in script.results.items():
        ensure(
            value == oracle.ends[node_id].value, "G-14", f"{node_id}: {value} != {oracle.ends[node_id].value}"
        )
