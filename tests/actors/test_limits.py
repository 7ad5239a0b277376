"""Bombs of real processes against `LimitWatch`, and what definitions may say of limits."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pool_harness import PoolHarness

from sage_actors import DefinitionError, Supervisor
from sage_actors.actors.pool.proc import process_times
from sage_actors.actors.pool.watch import CpuMeter, LimitWatch, children_of, descendants_of
from sage_actors.messages.codec import MAX_RESULT_BYTES
from sage_actors.messages.definition import Limits
from sage_actors.sandbox.probe import probe
from sage_actors.supervisor.definitions.loading import load_dict

pytestmark = pytest.mark.requirement("ORCH-023")

MB = 1 << 20
POLL_S = 0.05  # as the pool does
# The root adopts what daemonises, as a worker does. Nothing outlives a test that was killed by more than this.
_HEAD = """
import ctypes, os, signal, subprocess, sys, time
signal.alarm(30)
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
def python(code): return [sys.executable, "-S", "-c", code]
"""


@contextmanager
def tree(code: str) -> Iterator[int]:
    """The pid of a process that executes `code`; in the end it is killed with everything below it."""
    process = subprocess.Popen([sys.executable, "-S", "-c", _HEAD + textwrap.dedent(code)])
    try:
        yield process.pid
    finally:
        os.kill(process.pid, signal.SIGSTOP)  # so that it adopts what loses its parent until all is dead
        while below := [pid for pid in descendants_of(process.pid) if _lives(pid)]:
            for pid in below:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def _lives(pid: int) -> bool:
    times = process_times(pid)
    return times is not None and not times.is_zombie


def first_hit(code: str, limits: dict[str, Any], *, within_s: float = 15.0) -> dict[str, Any]:
    with tree(code) as pid:
        watch = LimitWatch(pid, limits)
        until = time.monotonic() + within_s
        while (hit := watch.exceeded()) is None:
            assert time.monotonic() < until, "the watch saw nothing"
            time.sleep(POLL_S)
        return hit


def used_after(code: str, limits: dict[str, Any], seconds: float) -> LimitWatch:
    """A watch that saw nothing for so long."""
    with tree(code) as pid:
        watch = LimitWatch(pid, limits)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert watch.exceeded() is None
            time.sleep(POLL_S)
        return watch


MEMORY_BOMBS = {
    "one process": "b = bytearray(b'x') * (300 << 20); time.sleep(30)",
    "children, each below the limit": """
        for _ in range(4): subprocess.Popen(python("b = bytearray(b'x') * (60 << 20); import time; time.sleep(30)"))
        time.sleep(30)""",
    "a daemon": """
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                b = bytearray(b'x') * (300 << 20); time.sleep(30)
            os._exit(0)
        os.wait(); time.sleep(30)""",
    "shared memory that is mapped": """
        import mmap
        m = mmap.mmap(-1, 300 << 20)
        for i in range(0, 300 << 20, 4096): m[i] = 1
        time.sleep(30)""",
    "an anonymous file that nobody maps": """
        fd = os.memfd_create("bomb")
        for _ in range(300): os.write(fd, bytes(1 << 20))
        time.sleep(30)""",
    "an anonymous file in a child, held by both": """
        fd = os.memfd_create("bomb")
        if os.fork() == 0:
            for _ in range(300): os.write(fd, bytes(1 << 20))
        time.sleep(30)""",
    "a segment that nobody has attached": """
        libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p
        segment = libc.shmget(0, ctypes.c_size_t(300 << 20), 0o1600)
        at = libc.shmat(segment, None, 0)
        ctypes.memset(at, 1, 300 << 20)
        libc.shmdt(ctypes.c_void_p(at))
        print(segment, flush=True); time.sleep(30)""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="what nobody has mapped is known from /proc only")
@pytest.mark.parametrize("name", MEMORY_BOMBS)
def test_memory_is_limited_wherever_the_tree_holds_it(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        hit = first_hit(MEMORY_BOMBS[name], {"memory": 150 * MB})
        assert (hit["kind"], hit["limit"]) == ("memory", 150 * MB)
        assert 150 * MB < hit["seen"] < 400 * MB
    finally:
        for segment in capfd.readouterr().out.split():  # outlives its maker
            ctypes.CDLL(None).shmctl(int(segment), 0, None)


def test_memory_that_two_processes_map_counts_once() -> None:
    code = """
        import mmap
        fd = os.memfd_create("shared"); os.ftruncate(fd, 80 << 20)
        m = mmap.mmap(fd, 80 << 20)
        for i in range(0, 80 << 20, 4096): m[i] = 1
        if os.fork() == 0:
            sum(m[i] for i in range(0, 80 << 20, 4096))
        time.sleep(30)"""
    watch = used_after(code, {"memory": 150 * MB}, 1.5)
    assert watch.peak_bytes > 80 * MB


CPU_BOMBS = {
    "a loop": "while True: pass",
    "a loop that catches SIGXCPU": """
        import resource
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CPU, (1, resource.RLIM_INFINITY))
        while True: pass""",
    "two at once": "os.fork()\nwhile True: pass",
    "children one after the other": """
        while True: subprocess.run(python("import time\\nwhile time.process_time() < 0.08: pass"))""",
    "a chain in which each forks the next and ends": """
        while True:
            until = time.process_time() + 0.08
            while time.process_time() < until: pass
            if os.fork(): os._exit(0) if os.getpid() != ROOT else signal.pause()""",
    "a chain of which nobody waits for anyone": """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            until = time.process_time() + 0.08
            while time.process_time() < until: pass
            if os.fork(): os._exit(0) if os.getpid() != ROOT else [signal.pause() for _ in iter(int, 1)]""",
}


@pytest.mark.parametrize("name", CPU_BOMBS)
def test_cpu_time_is_limited_whoever_uses_it(name: str) -> None:
    code = "ROOT = os.getpid()\n" + textwrap.dedent(CPU_BOMBS[name])
    hit = first_hit(code, {"cpu_seconds": 0.4})
    assert (hit["kind"], hit["limit"]) == ("cpu_seconds", 0.4)
    assert 0.4 < hit["seen"] < 3.0


def test_cpu_time_before_the_watch_does_not_count() -> None:
    code = """
        while time.process_time() < 0.8: pass
        subprocess.run(python("import time\\nwhile time.process_time() < 0.5: pass"))
        print("used", flush=True); time.sleep(30)"""
    with tree(code) as pid:
        until = time.monotonic() + 15
        while (times := process_times(pid)) is None or times.own_s + times.reaped_s < 0.8:
            assert time.monotonic() < until
            time.sleep(POLL_S)
        watch = LimitWatch(pid, {"cpu_seconds": 0.5})
        assert watch.exceeded() is None


def test_what_a_reaper_shows_was_counted_before() -> None:
    """Children that the watch has seen at work must not count again when their parent waits for them."""
    code = """
        for _ in range(3): subprocess.run(python("import time\\nwhile time.process_time() < 0.3: pass"))
        time.sleep(30)"""
    with tree(code) as pid:
        meter = CpuMeter()
        until = time.monotonic() + 15
        used = meter.look((pid, *descendants_of(pid)))
        while (times := process_times(pid)) is None or times.reaped_s < 0.8 or descendants_of(pid):
            assert time.monotonic() < until
            time.sleep(0.02)
            seen = meter.look((pid, *descendants_of(pid)))
            assert seen >= used
            used = seen
        used = meter.look((pid, *descendants_of(pid)))
        times = process_times(pid)
        assert times is not None
        assert used <= times.own_s + times.reaped_s + 0.02


FORK_BOMB = """
    take, give = os.pipe()
    os.write(give, bytes(300)); os.set_blocking(take, False)   # it stops itself at 300 processes
    while True:
        try: left = os.read(take, 1)
        except BlockingIOError: time.sleep(30)
        os.fork()"""


def test_a_fork_bomb_is_stopped_and_counted() -> None:
    hit = first_hit(FORK_BOMB, {"processes": 60})
    assert (hit["kind"], hit["limit"]) == ("processes", 60)
    assert 60 < hit["seen"] <= 300


def test_processes_that_ended_and_nobody_waited_for_count_too() -> None:
    hit = first_hit(
        """
        for _ in range(20):
            if os.fork() == 0: os._exit(0)
        time.sleep(30)""",
        {"processes": 10},
    )
    assert hit["seen"] > 10


@pytest.mark.skipif(sys.platform != "linux", reason="process namespaces are Linux's")
def test_the_worker_in_a_namespace_of_its_own_is_not_one_of_its_processes() -> None:
    """The pool knows the first process of the namespace, which only waits for the worker below it."""
    code = """
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x20000000 | (0x10000000 if os.getuid() else 0)): os._exit(77)
        if os.fork() == 0:
            if os.fork() == 0:
                for _ in range(3): subprocess.Popen(["sleep", "30"])
                time.sleep(30)
            time.sleep(30)
        os.wait(); time.sleep(30)"""
    with tree(code) as pid:
        until = time.monotonic() + 15
        while len(descendants_of(pid)) < 5:
            if not _lives(pid):
                pytest.skip("unshare of a process namespace is refused here")
            assert time.monotonic() < until
            time.sleep(POLL_S)
        first = children_of(pid)[0]
        assert LimitWatch(first, {"processes": 3}).exceeded() is None
        hit = LimitWatch(first, {"processes": 2}).exceeded()
        assert hit == {"kind": "processes", "limit": 2, "seen": 3}
        alone, both = LimitWatch(first, {"memory": 1 << 40}), LimitWatch(pid, {"memory": 1 << 40})
        assert alone.exceeded() is both.exceeded() is None
        assert alone.peak_bytes < both.peak_bytes  # who only waits is no part of it


def test_output_is_counted_and_costs_no_look_at_processes() -> None:
    watch = LimitWatch(-1, {"output": 1000})
    watch.printed(1000)
    assert watch.exceeded() is None
    watch.printed(1)
    assert watch.exceeded() == {"kind": "output", "limit": 1000, "seen": 1001}


def test_a_tree_that_is_gone_exceeds_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        watch = LimitWatch(process.pid, {"memory": 1, "cpu_seconds": 0.001, "processes": 1})
        assert watch.exceeded() is None
        assert children_of(process.pid) == []


BOMBS = """
import mmap, os, signal, subprocess, sys, tempfile, time
signal.alarm(60)
def fine(): return 1
def memory_in_children():
    code = "b = bytearray(b'x') * (80 << 20); import time; time.sleep(30)"
    for _ in range(4): subprocess.Popen([sys.executable, "-S", "-c", code])
    time.sleep(30)
def memory_shared():
    m = mmap.mmap(-1, 300 << 20)
    for i in range(0, 300 << 20, 4096): m[i] = 1
    time.sleep(30)
def cpu_chain():
    root = os.getpid()
    while True:
        until = time.process_time() + 0.08
        while time.process_time() < until: pass
        if os.fork():
            if os.getpid() != root: os._exit(0)
            time.sleep(30)
def fork_bomb():
    take, give = os.pipe()
    os.write(give, bytes(300)); os.set_blocking(take, False)   # it stops itself at 300 processes
    while True:
        try: os.read(take, 1)
        except BlockingIOError: time.sleep(30)
        os.fork()
def files(): return [open("/dev/null") for _ in range(300)] and None
def file_size(): open("big", "wb").write(bytes(1 << 20))
def result(): return bytes(1 << 20)
def output():
    while True: print("x" * 1000)
def tmp():
    with tempfile.TemporaryFile() as file:
        for _ in range(100): file.write(bytes(1 << 20)); file.flush()
"""
END_TO_END: dict[str, dict[str, Any]] = {
    "memory_in_children": {"memory": "200MiB"},
    "memory_shared": {"memory": "200MiB"},
    "cpu_chain": {"cpu_seconds": 0.5},
    "fork_bomb": {"processes": 40},
    "files": {"files": 100},
    "file_size": {"file_size": "100KiB"},
    "result": {"result": "10KiB"},
    "output": {"output": "100KiB"},
    "tmp": {"tmp": "20MiB"},
}


def test_each_bomb_ends_its_own_node_and_says_which_limit_it_hit(tmp_path: Path) -> None:
    (tmp_path / "bombs.py").write_text(BOMBS)
    tier = probe().tier
    cases = {name: said for name, said in END_TO_END.items() if tier == "namespaces" or name != "tmp"}
    if tier == "none":  # no kernel limit is set there, which the doctor says
        cases = {name: said for name, said in cases.items() if name not in ("files", "file_size")}
    nodes: list[dict[str, Any]] = [{"id": "fine", "type": "python", "call": "bombs:fine"}]
    for name, said in cases.items():
        policy = {"limits": said, "on_failure": "continue"}
        nodes.append({"id": name, "type": "python", "call": f"bombs:{name}", **policy})
    with Supervisor(tmp_path, workers=2, sandbox="degrade") as supervisor:
        run = supervisor.start(load_dict({"name": "limits", "nodes": nodes}))
        outcome = run.result(120)
        failed = {
            str(event.node): event.data["error"] for event in run.events() if event.event == "node_failed"
        }
    assert outcome.status == "succeeded"
    assert outcome.results["fine"] == 1
    assert failed.keys() == cases.keys()
    for name, error in failed.items():
        (kind,) = cases[name]
        limit = Limits(**flow(cases[name]).to_dict()["nodes"][0]["limits"])
        assert error["type"] == "LimitExceeded", error
        assert (error["details"]["kind"], error["details"]["limit"]) == (kind, getattr(limit, kind))
        assert f"{kind} limit " in error["message"]
        if name not in ("files", "file_size", "tmp"):
            assert error["details"]["seen"] > error["details"]["limit"]


def flow(limits: dict[str, Any]) -> Any:
    return load_dict(
        {"name": "f", "nodes": [{"id": "a", "type": "shell", "command": "true", "limits": limits}]}
    )


def test_all_limits_are_read_in_their_units() -> None:
    spec = flow(
        {"memory": "1GiB", "cpu_seconds": "2m", "processes": 8, "files": 64, "file_size": "10MB"}
        | {"output": "1MiB", "result": "2KiB", "tmp": 1000}
    )
    assert spec.nodes[0].operation.limits == Limits(1 << 30, 120.0, 8, 64, 10**7, MB, 2048, 1000)
    assert spec.to_dict()["nodes"][0]["limits"]["file_size"] == 10**7


@pytest.mark.parametrize(
    ("limits", "place", "reason"),
    [
        ({"files": 3}, "limits.files", "32"),
        ({"files": "64"}, "limits.files", "whole number"),
        ({"file_size": "1 cow"}, "limits.file_size", "is no size"),
        ({"output": 0}, "limits.output", "greater than 0"),
        ({"result": MAX_RESULT_BYTES + 1}, "limits.result", str(MAX_RESULT_BYTES)),
        ({"tmp": "5m"}, "limits.tmp", "is no size"),
        ({"wall": 5}, "limits.wall", "unknown field"),
    ],
)
def test_a_limit_that_means_nothing_is_refused_where_it_stands(
    limits: dict[str, Any], place: str, reason: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        flow(limits)
    (problem,) = caught.value.problems
    assert problem.place.endswith(place)
    assert reason in str(problem)


def test_a_result_beyond_its_limit_fails_only_its_node(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.define("large", {"type": "python", "call": "operations:large", "limits": {"result": 1000}})
        error = pool.error(pool.submit(worker, "large", size=1000))
        assert (error["type"], error["retryable"]) == ("LimitExceeded", False)
        assert error["details"] == {"kind": "result", "limit": 1000, "seen": 1003}
        assert "result limit 1000 bytes exceeded: 1003 bytes seen" in error["message"]
        assert pool.value(pool.submit(worker, "large", size=900)) == bytes(900)


GIGABYTE = """
import os, resource, socket, struct
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def plain(): return bytes(1 << 30)
def nested(): return {"pages": [1, {"body": bytes(1 << 30)}], "text": "x"}
def send(sock, chunk):
    for _ in range((1 << 30) // len(chunk)): sock.sendall(chunk)
def forged():                      # past all that packs results: a gigabyte on the worker's own socket
    for name in os.listdir("/proc/self/fd"):
        try: sock = socket.socket(fileno=os.dup(int(name)))
        except OSError: continue
        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
            sock.sendall(struct.pack(">I", 1 << 30)); send(sock, bytes(1 << 16))
"""


@pytest.mark.slow
def test_a_result_of_a_gigabyte_ends_its_node_and_fills_nobodys_memory(tmp_path: Path) -> None:
    (tmp_path / "giant.py").write_text(GIGABYTE)
    calls = ("plain", "nested", "peak")
    nodes: list[dict[str, Any]] = []
    for name in calls:  # one after the other, in the same worker
        before = [nodes[-1]["id"]] if nodes else []
        call = {"id": name, "type": "python", "call": f"giant:{name}", "needs": before}
        nodes.append(call | {"trigger": "all_done", "on_failure": "continue"})
    forged = {"id": "forged", "type": "python", "call": "giant:forged", "max_crashes": 1, "needs": ["peak"]}
    nodes += [forged | {"on_failure": "continue"}, {**nodes[-1], "id": "after", "needs": ["forged"]}]
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with Supervisor(tmp_path, workers=1, sandbox="degrade") as supervisor:
        outcome = supervisor.run(load_dict({"name": "giant", "nodes": nodes}), timeout=60)
    for name in ("plain", "nested"):
        error = outcome.errors[name]
        assert (error["type"], error["retryable"]) == ("LimitExceeded", False), error
        assert error["details"]["seen"] >= 1 << 30
    assert outcome.errors["forged"]["type"] == "PoisonedError"
    assert "1073741824 bytes; the limit is" in str(outcome.errors["forged"])
    assert outcome["peak"] < 300 * MB
    assert outcome["after"] < 300 * MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak_before < 200 * MB


def test_a_failure_at_a_limit_of_the_kernel_is_told_as_that_limit(tmp_path: Path) -> None:
    command = "ulimit -f 1; head -c 9000 /dev/zero > big"
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        for name, limits in (("limited", {"file_size": 512}), ("free", {"files": 64})):
            pool.define(name, {"type": "shell", "limits": limits})
            error = pool.error(pool.submit(worker, name, config={"command": command}))
            if name == "free":
                assert error["type"] == "CommandFailed"
                continue
            assert (error["type"], error["retryable"]) == ("LimitExceeded", False)
            assert error["details"] == {"kind": "file_size", "limit": 512, "seen": None}
            assert "file_size limit 512 bytes reached" in error["message"]


def test_what_prints_without_end_is_stopped(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.define("shell", {"type": "shell", "limits": {"output": 100_000}})
        key = pool.submit_config(worker, "shell", {"command": "yes"})
        lost = pool.lost(worker)
        assert (lost.evidence.reason, lost.culprits) == ("limit", (key,))
        assert lost.evidence.limit is not None
        assert lost.evidence.limit["kind"] == "output"
        assert lost.evidence.limit["seen"] > 100_000
        assert "output limit 97.66 KiB exceeded" in lost.evidence.describe()
