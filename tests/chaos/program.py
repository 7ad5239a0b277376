"""The program that the campaign kills: carries out one workflow by the library, and tells its events.

    python program.py PROJECT RUN_ID OPTIONS        (OPTIONS: JSON, see `main`)
    python program.py --serve FD                    forks one such process for each request (see nursery.py)

Every operation writes what it does to PROJECT/side.log: one line, one write, appended, so that the log says
what really executed whatever happens to the processes: `generation node attempt pid start|end time`, where
the generation counts the supervisors that this run has had.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

SIDE_LOG = "side.log"
EFFECTS = "effects.log"
SABOTAGE = "sabotage"
GENERATION = "SAGE_CHAOS_GENERATION"
ITEMS = 6
PAID = {"paid": 42}
DAEMON_S = 120
SERVE = "--serve"
_REQUEST_BYTES = 65_536
_USED = (
    *("actors.pool.keeper_client", "actors.pool.pool", "actors.pool.watch"),
    *("supervisor.api", "supervisor.recovery.opening"),
)


def seed(context: Any) -> list[int]:
    with Noted(context):
        return list(range(ITEMS))


def square(number: int, context: Any) -> int:
    with Noted(context):
        time.sleep(0.01)
        return number * number


async def fetch(number: int, context: Any) -> dict[str, int]:
    with Noted(context):
        await asyncio.sleep(0.02)
        return {"number": number, "twice": 2 * number}


def pay(amount: int, context: Any) -> dict[str, int]:
    """Has an effect that must not happen twice."""
    with Noted(context):
        append(context.project / EFFECTS, f"{context.node_id} {context.attempt}\n")
        time.sleep(0.03)
        return PAID


def flaky(context: Any) -> str:
    """Fails once for each run, whatever is killed meanwhile."""
    with Noted(context):
        marker = context.project / "flaky.failed"
        if not marker.exists():
            marker.touch()
            raise RuntimeError("the first attempt fails")
        return "went well"


def fail(context: Any) -> None:
    with Noted(context):
        raise ValueError("this never works")


def daemon(context: Any) -> str:
    """Leaves a daemon behind as a careless library would: forked twice, own session, deaf to signals."""
    with Noted(context):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 256)
                for which in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(which, signal.SIG_IGN)
                time.sleep(DAEMON_S)
            os._exit(0)
        os.wait()
        return "left a daemon"


def combine(parts: Any, context: Any) -> Any:
    with Noted(context):
        return parts


def add(left: int, right: int, context: Any) -> int:
    with Noted(context):
        return left + right


class Noted:
    """Notes start and end of an attempt in the side log; what sabotages its node happens here."""

    def __init__(self, context: Any) -> None:
        self._name = f"{os.environ[GENERATION]} {context.node_id} {context.attempt} {os.getpid()}"
        self._node, self._project = context.node_id, Path(context.project)

    def __enter__(self) -> None:
        append(self._project / SIDE_LOG, f"{self._name} start {time.time():.6f}\n")
        self._sabotage()

    def __exit__(self, *error: object) -> None:
        append(self._project / SIDE_LOG, f"{self._name} end {time.time():.6f}\n")

    def _sabotage(self) -> None:
        plan = self._project / SABOTAGE
        try:
            node, point = plan.read_text().split()
            if node != self._node:
                return
            plan.unlink()  # only one process succeeds in that: it happens once
        except OSError:
            return
        from sage_actors.actors.faults import arm

        if point == "operation":
            os.kill(os.getpid(), signal.SIGKILL)
        arm(f"{point}:1:kill")


def append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


_SHELL = f"printf '%d shell 0 %d {{what}} %s\\n' ${GENERATION} $$ $(date +%s.%N) >> {SIDE_LOG}"
SHELL = f"{_SHELL.format(what='start')}; sleep 0.01; echo from the shell; {_SHELL.format(what='end')}"

_SELF = "__main__"  # workers import this very script
SUBFLOW = {
    "name": "sums",
    "inputs": {"base": {"type": "integer"}},
    "nodes": [
        {
            "id": "one",
            "type": "python",
            "call": f"{_SELF}:add",
            "arguments": {"left": "${inputs.base}", "right": 1},
        },
        {
            "id": "two",
            "type": "python",
            "call": f"{_SELF}:add",
            "arguments": {"left": "${one}", "right": 2},
        },
    ],
}


def build() -> Any:
    """Every kind of node that needs no network, in about 30 nodes."""
    from sage_actors import Workflow

    flow = Workflow("chaos", inputs={"amount": 7})
    items = flow.add(seed)
    squares = flow.add(square, foreach=items, number="${item}")
    fetched = [flow.add(fetch, id=f"fetch-{i}", number=i) for i in range(4)]
    flow.add("shell", id="shell", command=["sh", "-c", SHELL], after=[items])
    paid = flow.add(pay, effect="once", amount="${inputs.amount}", after=[items])
    luck = flow.add(flaky, retry={"max_attempts": 4, "backoff": 0.02})
    never = flow.add(fail, on_failure="continue", retry=1)
    left = flow.add(daemon)
    sums = flow.add("workflow", id="sums", definition=SUBFLOW, inputs={"base": "${square | [2]}"})
    pause = flow.add("wait", id="pause", seconds=0.05, after=[left])
    skipped = flow.add(combine, id="skipped", when="${square | [99]}", parts="never seen")
    after = flow.add(combine, id="after-skipped", trigger="all_done", parts="seen", after=[skipped])
    second = [flow.add(fetch, id=f"second-{i}", number=f"${{fetch-{i} | twice}}") for i in range(4)]
    chain = flow.add(combine, id="chain-0", parts=[*second])
    for i in range(1, 4):
        chain = flow.add(combine, id=f"chain-{i}", parts=chain)
    parts = {"squares": squares, "fetched": fetched, "paid": paid, "luck": luck, "never": never}
    parts |= {"sums": sums, "after": after, "chain": chain, "shell": "${shell | stdout}"}
    flow.add(combine, id="join", parts=parts, after=[left, pause])
    return flow


def main(project: str, run_id: str, options: str) -> int:
    """OPTIONS: {"settle": resolve what is in doubt, "passes": tell how often each fault point was passed}"""
    from sage_actors import SageError, Supervisor
    from sage_actors.actors import faults

    said = json.loads(options)
    os.chdir(project)
    say({"event": "ready", "pid": os.getpid()})
    try:
        with Supervisor(project, workers=2, grace_s=0.5) as supervisor:
            run = supervisor.start(build(), run_id=run_id, inputs={"amount": 7})
            for event in run.events():
                say(event.to_dict())
                if said.get("settle") and event.data.get("reason") == "in_doubt":
                    settle(run, str(event.node))
            outcome = run.result(60)
            last: dict[str, Any] = {"event": "outcome", "status": outcome.status, "reason": outcome.reason}
            last |= {"results": dict(outcome.results), "errors": dict(outcome.errors)}
    except SageError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    if said.get("passes"):
        say({"event": "passes", "passes": faults._passed})
    say(last)
    return outcome.exit_code


def settle(run: Any, node: str) -> None:
    """Says what happened, as a person would who looked: the worker is dead, so it shows or never will."""
    from sage_actors import UsageError

    happened = Path(EFFECTS).exists()
    try:
        run.resolve(
            node, "result" if happened else "retry", result=PAID if happened else None, by="the campaign"
        )
    except UsageError as error:
        say({"event": "resolve_too_late", "error": str(error)})  # it paused first; the next one resolves


def say(what: dict[str, Any]) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


def serve(requests: socket.socket) -> int:
    """Forks until nobody asks any more. Returns what the generation returns in each process that is one."""
    for module in _USED:
        importlib.import_module(f"sage_actors.{module}")
    build()  # loads what checks definitions
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that keep the exit codes
    while True:
        request, fds, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 3)
        if not request:
            return 0
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keep(*fds)
            return generation(*json.loads(request), *fds)
        for fd in fds:
            os.close(fd)


def keep(stdout: int, stderr: int, status: int) -> None:
    """Forks and returns in the new process; tells its id, and when it ends its exit code, in this one."""
    pid = os.fork()
    if pid == 0:
        return
    os.close(stdout)
    os.close(stderr)
    os.write(status, str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(status, str(code).encode())
    os._exit(0)


def generation(arguments: list[str], environ: dict[str, str], stdout: int, stderr: int, status: int) -> int:
    """The program in this forked process, as if it had been started so."""
    from sage_actors.actors import faults

    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for fd in (stdout, stderr, status):
        os.close(fd)
    os.environ.update(environ)
    faults.arm(os.environ.get("SAGE_FAULT", ""))  # read at import: in the nursery, which has none
    return main(*arguments)


if __name__ == "__main__":
    if sys.argv[1] == SERVE:
        sys.exit(serve(socket.socket(fileno=int(sys.argv[2]))))
    sys.exit(main(*sys.argv[1:]))
