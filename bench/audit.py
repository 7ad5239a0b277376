"""What the audit log costs: a record alone, a node's two transitions among many, and proving the log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from bench.ground import Ground, ground, layers
from bench.measure import Benchmark, Figure, Size, figure, run_group
from sage_actors.actors.audit.actor import states_entry
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.audit.verify import verify_chain
from sage_actors.actors.clock import SystemClock
from sage_actors.actors.keys.provider import KeyRing, load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal_format import Location
from sage_actors.messages.records import NodesStarted, NodesSucceeded, Record
from sage_actors.supervisor.audit_events import Transcript
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions

__all__ = ["BENCHMARKS"]

_ROWS = 64  # of a worker's answer
_LINE = 2_000  # nodes whose transitions become one record: 50 ms of a busy engine
_ALONE = {"event": "egress", "run": "run", "host": "api.example.com", "port": 443, "decision": "allow"}


def measure_records(size: Size) -> list[Figure]:
    """Records written one by one, each with its lock and its write, without fsync; then all of them verified."""
    count = size.pick(5_000, 500)
    appends, checks = [], []
    for _ in range(size.repeats()):
        with ground() as here:
            state, keys, log = _open(here)
            appends.append(_cpu_us(lambda log=log: [log.append([_ALONE]) for _ in range(count)]) / count)  # type: ignore[misc]
            checks.append(_cpu_us(lambda state=state, keys=keys: verify_chain(state, keys)) / count)  # type: ignore[misc]
            log.close()
    return [
        figure("audit-append", appends, "us", note="one record, one write, no fsync; CPU"),
        figure("audit-verify", checks, "us", note="per record: parsed, canonical, HMAC, chain; CPU"),
    ]


def measure_nodes(size: Size) -> list[Figure]:
    """Start and success of no-op nodes as the engine's records say them, translated and written; CPU per node."""
    nodes = size.pick(100_000, 10_000)
    costs, sizes = [], []
    for _ in range(size.repeats()):
        with ground() as here:
            _, _, log = _open(here)
            core, groups = _core(nodes), _groups(nodes)
            costs.append(_cpu_us(lambda log=log, core=core, groups=groups: _write(log, core, groups)) / nodes)  # type: ignore[misc]
            log.close()
            files = (here.project / ".sage").glob("audit*.jsonl")
            sizes.append(sum(path.stat().st_size for path in files) / nodes)
    note = f"answers of {_ROWS}, {_LINE:,} nodes a record; in a thread of its own while the engine runs"
    return [figure("audit-node", costs, "us", note=note), figure("audit-node-bytes", sizes, "B")]


def _open(here: Ground) -> tuple[StateDirectory, KeyRing, AuditLog]:
    state, keys = StateDirectory(here.project), load_keys(environ=here.environ)
    return state, keys, AuditLog(state, keys)


def _core(nodes: int) -> RunCore:
    plan = compile_plan(layers(nodes, 1000).to_spec())
    ports = None
    return RunCore(
        number=1,
        run_id="run",
        run_key="run",
        plan=plan,
        inputs={},
        ports=ports,  # type: ignore[arg-type]
        clock=SystemClock(),
        options=RunOptions(),
    )


def _groups(nodes: int) -> list[list[Record]]:
    """The records of each answer: what it started, and what succeeded."""
    out: list[list[Record]] = []
    for first in range(0, nodes, _ROWS):
        some = range(first, min(first + _ROWS, nodes))
        succeeded = NodesSucceeded(0.0, [[node, 1, 5, b"\xc0", None] for node in some])
        out.append([NodesStarted(0.0, [(node, 1) for node in some]), succeeded])
    return out


def _write(log: AuditLog, core: RunCore, groups: list[list[Record]]) -> None:
    transcript = Transcript()
    transcript.begin(core)
    per_line = _LINE // _ROWS
    for at in range(0, len(groups), per_line):
        changes = [change for group in groups[at : at + per_line] for change in transcript.changes(group)]
        log.append([states_entry("run", changes, Location(1, at, at), bytes(16))])


def _cpu_us(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return (time.process_time() - began) * 1e6


BENCHMARKS: dict[str, Benchmark] = {"records": measure_records, "nodes": measure_nodes}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))
