"""MCP programs that nobody here wrote, from npm: installed once, and known where they cannot be had.

`python tests/support/npm_servers.py FOLDER` installs them there, which takes npm a minute: CI begins with it, and tells
the tests by $SAGE_TEST_NPM. Without that they install them themselves.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NAMES", "VERSION", "install"]

VERSION = "2026.8.31"
NAMES = ("everything", "filesystem", "memory")
_PACKAGES = [
    *(f"@modelcontextprotocol/server-{name}@{VERSION}" for name in NAMES),
    "@modelcontextprotocol/inspector@0.15.0",  # the last one for node 20
]
_SERVERS = [f"mcp-server-{name}" for name in NAMES]
_PATIENCE_S = 80.0  # of a test
_NOT_AGAIN_S = 600.0


def install(place: Path, timeout_s: float = _PATIENCE_S) -> str:
    """Puts the programs below `place`, unless they are there; why they are not, or ""."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    with _alone(place / "lock", timeout_s) as is_alone:
        if not is_alone:
            return f"another process still installs the programs after {timeout_s:.0f} s"
        commands = place / "node_modules" / ".bin"
        if all((commands / name).exists() for name in (*_SERVERS, "mcp-inspector")):
            return ""
        failed = place / "failed"
        if failed.exists() and time.time() - failed.stat().st_mtime < _NOT_AGAIN_S:  # not again for each test
            return failed.read_text()
        why = _npm_install(place, timeout_s)
        if why:
            failed.write_text(why)
        return why


def _npm_install(place: Path, timeout_s: float) -> str:
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(place), *_PACKAGES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"npm cannot install the programs: no answer within {timeout_s:.0f} s"
    return f"npm cannot install the programs: {done.stderr.strip()[-200:]}" if done.returncode else ""


@contextmanager
def _alone(path: Path, timeout_s: float) -> Iterator[bool]:
    """Whether this process has the lock: tests of two files, side by side, want them."""
    deadline = time.monotonic() + timeout_s
    with path.open("w") as lock:
        while not (is_held := _try_lock(lock.fileno())) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield is_held


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    sys.exit(install(Path(sys.argv[1]), 400.0) or None)
