"""A process with a key is closed to others of its user: shown on a real process, as one that has no rights."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.requirement("ORCH-016"),
    pytest.mark.skipif(sys.platform != "linux", reason="prctl(PR_SET_DUMPABLE) is Linux's"),
]

_NOBODY = 1000
_HOLDS_A_KEY = """
import ctypes, os, resource, sys
from sage_actors.actors.keys.ring import MasterKey, format_key
from sage_actors.actors.keys.provider import load_keys
if os.getuid() == 0:
    os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)   # a change of user closes it, too
environ = {{"SAGE_STATE_KEY": format_key(bytes(range(32))), **{extra}}}
load_keys(environ=environ)
print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
sys.stdin.read()
"""
_LOOKS = """
import os, sys
pid, uid = int(sys.argv[1]), {uid}
if os.getuid() == 0:
    os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
def can(name):
    try:
        fd = os.open(f"/proc/{{pid}}/{{name}}", os.O_RDONLY)
        os.read(fd, 1) if name != "mem" else None
        return True
    except PermissionError:
        return False
    except OSError:
        return True
print(*[name for name in ("environ", "mem", "maps", "stat", "status") if can(name)])
"""


def _uid() -> int:
    return os.getuid() or _NOBODY


def looks_of_another(extra: dict[str, str]) -> tuple[list[str], int]:
    """What another process of the same user can read of one that has loaded a key; its limit of core files."""
    command = [sys.executable, "-c", _HOLDS_A_KEY.format(uid=_uid(), extra=extra)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/") as holder:
        assert holder.stdout is not None
        core = int(holder.stdout.readline())
        look = [sys.executable, "-S", "-c", _LOOKS.format(uid=_uid()), str(holder.pid)]
        done = subprocess.run(look, capture_output=True, text=True, check=True, cwd="/")
        holder.communicate(timeout=20)
    return done.stdout.split(), core


def test_who_has_a_key_shows_neither_memory_nor_environment() -> None:
    seen, core = looks_of_another({})
    assert seen == ["stat", "status"], "locks and limits need these two"
    assert core == 0


def test_it_can_be_left_as_it_is() -> None:
    seen, _ = looks_of_another({"SAGE_DUMPABLE": "1"})
    assert seen[:2] == ["environ", "mem"]


def test_a_program_that_is_started_is_not_closed() -> None:
    code = (
        "import subprocess, sys\n"
        "from sage_actors.actors.undumpable import is_dumpable, make_undumpable\n"
        "assert make_undumpable({}) and not is_dumpable()\n"
        "import os; pid = os.fork()\n"
        "if pid == 0: os._exit(1 + is_dumpable())\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1, 'a forked copy has the keys, too'\n"
        "code = 'from sage_actors.actors.undumpable import is_dumpable; print(is_dumpable())'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    code = (
        "import os; from sage_actors.actors.undumpable import make_undumpable\n"
        "make_undumpable({})\nos.abort()"
    )
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    assert done.returncode == -6
    assert not list(tmp_path.iterdir())
