"""The budgets: one for each line of the design's table, by the name of the figure that is held against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["BUDGETS", "GROUPS", "Budget"]

Better = Literal["lower", "higher"]

# In the order in which they are run and written down.
GROUPS = (
    "engine",
    "scale",
    "latency",
    "resume",
    "cli",
    "many",
    "mcp_call",
    "audit",
    "sandbox",
    "retention",
    "sage_research",
    "sage_makespan",
    "sage_feature",
)


@dataclass(frozen=True, slots=True)
class Budget:
    """what: the line of the table. limit: in `unit`; None where the run itself has to work it out.

    measured_by: the benchmark, as `--only` takes it.
    """

    what: str
    limit: float | None
    unit: str
    measured_by: str
    better: Better = "lower"


BUDGETS: dict[str, Budget] = {
    "engine-cpu": Budget(
        "engine CPU per node: no-op nodes in layers of 1,000, two parents each, string ids, strict, "
        "encrypted, starts journaled",
        15,
        "us",
        "engine.layers",
    ),
    "engine-wall": Budget(
        "the same, wall: within CPU + fsyncs x this machine's write + fdatasync", None, "us", "engine.layers"
    ),
    "layers-50-wall": Budget("the same in layers of 50, relaxed, wall", 20, "us", "engine.narrow"),
    "chain-strict": Budget(
        "one chain, strict: per node, against the machine's own write + fdatasync", 2.5, "x", "engine.chain"
    ),
    "futures-wall": Budget(
        "against concurrent.futures with a hand-written graph loop (not durable), layers of 1,000: wall",
        15,
        "x",
        "engine.futures",
        "higher",
    ),
    "futures-cpu": Budget("the same, CPU of all processes", 15, "x", "engine.futures", "higher"),
    "memory-per-node": Budget(
        "1,000,000 nodes: memory after admission, above an idle supervisor, a node", 1000, "B", "scale.growth"
    ),
    "growth": Budget(
        "growth from 10^4 to 10^6 nodes: the worst per-node CPU over that of 10^4", 1.5, "x", "scale.growth"
    ),
    "makespan": Budget(
        "makespan of sleeping nodes above the critical path: within 1 % and 20 ms",
        None,
        "ms",
        "latency.makespan",
    ),
    "makespan-async": Budget("the same, `async def` nodes", None, "ms", "latency.makespan"),
    "async-1000": Budget(
        "1,000 `async def` nodes that each wait 1 s, two workers, no concurrency limit",
        1.3,
        "s",
        "latency.waiting",
    ),
    "round-trip": Budget(
        "a node's round trip on an idle engine, relaxed (median)", 300, "us", "latency.round_trip"
    ),
    "restart": Budget("worker killed, until its node runs again", 50, "ms", "latency.restart"),
    "resume": Budget(
        "resume of a 100,000-node run, from the start of the process until the first node starts",
        1.5,
        "s",
        "resume.killed",
    ),
    "encryption": Budget("encryption's share of the engine's CPU", 5, "%", "engine.layers"),
    "help-cpu": Budget("`sage-actors --help`, CPU", 150, "ms", "cli.help"),
    "journal-bytes": Budget("journal bytes per no-op node", 120, "B", "engine.layers"),
    "many": Budget(
        "100 workflows at once in one supervisor, against one of the same nodes and total width (wall)",
        1.5,
        "x",
        "many.hundred",
    ),
    "mcp-call": Budget(
        "a warm MCP call through the engine, against the SDK's own call of the same server",
        1.3,
        "x",
        "mcp_call.call",
    ),
    "mcp-memory": Budget(
        "five built-in MCP servers: memory of the whole process that serves them",
        150,
        "MB",
        "mcp_call.memory",
    ),
    "sandbox-engine": Budget(
        "the default sandbox against none, layers of 1,000, same run", 1.05, "x", "sandbox.engine"
    ),
    "sandbox-own": Budget(
        "an operation in a process of its own, above a shared one", 10, "ms", "sandbox.own"
    ),
    "sandbox-probe": Budget("finding out what this machine can confine", 20, "ms", "sandbox.probe"),
    "secret-scan": Budget("looking for secrets, a KB", 0.3, "ms", "sandbox.scan"),
    "audit-append": Budget("a record of the audit log, alone, CPU", 60, "us", "audit.records"),
    "retention-hit": Budget(
        "180 KB of passages cut to 8,000 bytes: questions of the Python FAQ of whose answer something is kept",
        0.92,
        "of 1",
        "retention.faq",
        "higher",
    ),
    "retention-kept": Budget(
        "the same: share of the answer's text that is kept", 0.81, "of 1", "retention.faq", "higher"
    ),
    "research-candidates": Budget(
        "candidate research of the feature template on a real repository, the least",
        180,
        "KB",
        "sage_research.templates",
        "higher",
    ),
    "research-passed": Budget(
        "the same: what of it is passed on to later phases, the most", 8, "KB", "sage_research.templates"
    ),
    "run-tokens": Budget(
        "tokens along the edges of a whole run, against handing on every candidate: fewer by",
        86,
        "%",
        "sage_research.templates",
        "higher",
    ),
    "research-makespan": Budget(
        "research phase of four operations that wait 45, 30, 40 and 20 s (scaled), above the longest: within 2 % of it "
        "and the fixed cost",
        None,
        "ms",
        "sage_makespan.research",
    ),
    "research-speedup": Budget(
        "the same against one after another", 3, "x", "sage_makespan.research", "higher"
    ),
    "feature-speedup": Budget(
        "the whole feature workflow of operations that wait, against one after another",
        3,
        "x",
        "sage_feature.speedup",
        "higher",
    ),
    "feature-first": Budget(
        "`run feature` on a repository of 1,000 files: from the command until the first result of research",
        5,
        "s",
        "sage_feature.first",
    ),
    "feature-spec": Budget("the same, until spec.md is written", 5, "s", "sage_feature.first"),
}
