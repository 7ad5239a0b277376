"""The scope of signals: what is inside ends, whatever it did to hide; what is outside is not reached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sage_actors.sandbox import landlock

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(landlock.abi() < 6, reason="Landlock has no scopes here"),
]

CONFINED = """
import ctypes, os, sys, time
from sage_actors.sandbox import kernel, seccomp
from sage_actors.sandbox.scope import enter_scope, is_outside, kill_scope

def confined():
    if os.fork() == 0:
        os.setsid()
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        seccomp.install(seccomp.program(sockets=True, namespaces=True, own_pids=True))
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
"""
INSIDE = """
assert enter_scope()
print(is_outside(os.getppid()), is_outside(os.getpid()), flush=True)
confined()
sys.stdin.readline()
print(kill_scope(), flush=True)
os.wait()
"""


def started(code: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A process, and the words of its first lines until the number of one that it confined."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONFINED + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    words: list[str] = []
    while not (words and words[-1].isdigit()):
        words += process.stdout.readline().split()
    return process, words


def test_all_inside_ends_and_nothing_outside() -> None:
    neighbour, [outside] = started("confined(); sys.stdin.readline()")
    process, [sees_parent, sees_itself, _] = started(INSIDE)
    try:
        said, _ = process.communicate("go\n", timeout=30)  # it ends only when its child has
        assert (sees_parent, sees_itself) == ("True", "False")
        assert said.split() == ["1"]
        os.kill(int(outside), 0)
    finally:
        os.kill(int(outside), signal.SIGKILL)
        neighbour.communicate("go\n", timeout=30)
