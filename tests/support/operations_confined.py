"""Operations that try what a confined worker must not do, and what it must."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from sage_actors.messages.codec import frame
from sage_actors.messages.wire import Kind


def read(path: str) -> str:
    return Path(path).read_text()


def write(path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("written")
    return path


async def write_async(path: str) -> str:
    return await asyncio.to_thread(write, path)


def environment() -> dict[str, str]:
    return dict(os.environ)


def first_environment() -> str:
    """What the process was started with, and its parent: `os.environ` hides nothing there."""
    return "".join(
        Path(each).read_bytes().decode(errors="replace")
        for each in ("/proc/self/environ",)
        if os.path.exists(each)
    )


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 5):
        return "connected"


def serve_itself() -> str:
    """A server and its client in one operation: what test suites do."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        served, _ = server.accept()
        served.sendall(b"hello")
        served.close()
        return client.recv(16).decode()


def leave_a_daemon(mark: str) -> str:
    """A process that detaches itself in every way there is."""
    code = (
        "import ctypes, os, signal, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"  # nobody of this user may look into it
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\n"
        "time.sleep(120)\n"
    )
    subprocess.run([sys.executable, "-c", code, mark], check=True)
    return mark


def linger(mark: str, started: str) -> None:
    leave_a_daemon(mark)
    Path(started).write_text("yes")
    time.sleep(120)


def kill_itself(number: int) -> str:
    os.kill(os.getpid(), number)
    time.sleep(1)
    return "survived"


def take_memory(megabytes: int, children: int) -> None:
    for _ in range(children):
        if os.fork() == 0:
            held = bytearray(megabytes << 20)
            time.sleep(60)
            os._exit(len(held) & 1)
    time.sleep(60)


def fill_temporary(megabytes: int) -> int:
    with open(os.path.join(os.environ["TMPDIR"], "fill"), "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return megabytes


def large(megabytes: int) -> bytes:
    return bytes(megabytes << 20)


def value(number: int) -> int:
    return number


SMUGGLED = "sage-smuggled"


def smuggle() -> int:
    """Sends an open file over each socket of this process, beside a harmless frame; how many took it."""
    held = os.memfd_create(SMUGGLED)
    sent = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # no socket, or gone
            continue
        with sock:
            if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
                socket.send_fds(sock, [frame(Kind.HEARTBEAT, [])], [held])
                sent += 1
    return sent
