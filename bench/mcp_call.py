"""What a call of an MCP tool costs beside the SDK's own call, and what five built-in servers weigh."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.ground import ROOT, Ground, ground, succeeded
from bench.measure import Benchmark, Figure, Size, figure, number, run_group
from sage_actors import Supervisor, load
from sage_actors.actors.mcp.config import load_servers
from sage_actors.actors.trust.consents import TrustStore

__all__ = ["BENCHMARKS"]

_SERVER = ROOT / "bench" / "mcp_server.py"
_ARGUMENTS = {"text": "rate limiting for the public API"}


def measure_call(size: Size) -> list[Figure]:
    """Warm calls one after another: as nodes of a chain, and with the SDK's client; one server process each."""
    calls = size.pick(500, 100)
    with ground() as here, here.supervisor("relaxed") as supervisor:
        _bring_server(here)
        _chain_ms(here, supervisor, 20)
        pairs = [
            (_chain_ms(here, supervisor, calls), asyncio.run(_sdk_ms(calls)))
            for _ in range(size.repeats(7, 3))
        ]
    ours, sdk = [each for (each, _), _ in pairs], [each for _, each in pairs]
    note = f"{calls} calls one after another on stdio: nodes of a chain (relaxed) against Client.call_tool"
    return [
        figure("mcp-call", [one / other for (one, _), other in pairs], "x", note=note),
        figure("mcp-call-engine", ours, "ms", note="a node: the call, its checkpoint and the next dispatch"),
        figure(
            "mcp-call-worker", [each for (_, each), _ in pairs], "ms", note="of that, what the worker took"
        ),
        figure("mcp-call-sdk", sdk, "ms", note="the SDK's client and the same server, no engine"),
    ]


def _bring_server(here: Ground) -> None:
    """The server is in the project's `.mcp.json`, and the user consented to it."""
    servers = {"bench": {"command": sys.executable, "args": [str(_SERVER)]}}
    (here.project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    trusted = TrustStore(Path(here.environ["XDG_CONFIG_HOME"]) / "sage-actors" / "trust.json")
    trusted.consent(here.project, [each.trust_item() for each in load_servers(here.project).values()])


def _chain_ms(here: Ground, supervisor: Supervisor, calls: int) -> tuple[float, float]:
    """A call as a node of a chain: in all, and in the worker."""
    node: dict[str, Any] = {"type": "mcp", "server": "bench", "tool": "echo", "arguments": _ARGUMENTS}
    nodes = [{**node, "id": f"n{n}", "needs": [f"n{n - 1}"] if n else []} for n in range(calls)]
    path = here.project / f"chain-{calls}.json"
    path.write_text(json.dumps({"name": "chain", "nodes": nodes}))
    flow = load(path)
    began = time.perf_counter()
    outcome = succeeded(supervisor.run(flow, run_id=here.new_id("mcp")))
    wall = time.perf_counter() - began
    return wall / calls * 1e3, outcome.busy_seconds / calls * 1e3


async def _sdk_ms(calls: int) -> float:
    from mcp import Client, StdioServerParameters

    server = StdioServerParameters(command=sys.executable, args=[str(_SERVER)])
    async with Client(server) as client:
        for _ in range(20):
            await client.call_tool("echo", dict(_ARGUMENTS))
        began = time.perf_counter()
        for _ in range(calls):
            await client.call_tool("echo", dict(_ARGUMENTS))
        return (time.perf_counter() - began) / calls * 1e3


def measure_memory(size: Size) -> list[Figure]:
    """Five built-in servers in one process, all of that process: interpreter, SDK, client, servers."""
    found = [_memory() for _ in range(size.repeats(3, 1))]
    mega = {name: [each[name] / 1e6 for each in found] for name in found[0]}
    note = f"the whole process, of which the servers are {number(mega['five'][0] - mega['before'][0])} MB"
    return [
        figure("mcp-memory", mega["five"], "MB", note=note),
        figure(
            "mcp-memory-used", mega["researched"], "MB", note="the same after one research of this repository"
        ),
    ]


def _memory() -> dict[str, float]:
    with ground() as here:
        path = os.pathsep.join([str(ROOT / "src"), here.environ["PYTHONPATH"]])
        command = [sys.executable, "-m", "bench.mcp_process", str(ROOT)]
        done = subprocess.run(
            command,
            env={**here.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
        )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


BENCHMARKS: dict[str, Benchmark] = {"call": measure_call, "memory": measure_memory}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))
