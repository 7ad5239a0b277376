"""Descriptors are not passed through a sandbox's wall, and nothing that the kernel keeps is there for the next run."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import operations_confined
import pytest
from confinement_harness import carry_out, python
from sandbox_attacks import X86, raw
from sandbox_harness import enter, run, scene_for
from test_sandbox_attacks import needs

from sage_actors.sandbox.confine import TIERS

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's"),
]
KINDS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
_CREATE = 0o1666


@contextlib.contextmanager
def handing_out(folder: str, path: str) -> Iterator[dict[int, str]]:
    """Sockets in `folder` that hand the file at `path` to whoever connects, and keep what they are handed."""
    taken: dict[int, str] = {}

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, open(path) as file:
                    _, descriptors, _, _ = socket.recv_fds(client, 16, 4)
                    for each in descriptors:
                        taken[server.type] = os.readlink(f"/proc/self/fd/{each}")
                        os.close(each)
                    socket.send_fds(client, [b"take"], [file.fileno()])

    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            server = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            server.bind(f"{folder}/hand-{int(kind)}")
            server.listen()
            stack.callback(server.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield taken


def pass_both_ways(folder: str) -> dict[str, str]:
    """What came of it: the content of the descriptor that was handed over, or the error."""
    said = {}
    for kind in KINDS:
        try:
            with socket.socket(socket.AF_UNIX, kind) as client, open(f"{folder}/f") as own:
                client.connect(f"{folder}/hand-{int(kind)}")
                socket.send_fds(client, [b"give"], [own.fileno()])
                _, descriptors, _, _ = socket.recv_fds(client, 16, 1)
                said[str(int(kind))] = os.read(descriptors[0], 9).decode()
        except OSError as error:
            said[str(int(kind))] = type(error).__name__
    return said


@pytest.mark.parametrize("tier", [*TIERS, "none"])
def test_no_descriptor_passes_a_socket_between_inside_and_outside(tier: str) -> None:
    """Landlock looks at paths when they are opened: who is handed what is open needs none."""
    if tier != "none":
        needs(tier)
    with (
        scene_for(os.geteuid()) as scene,
        handing_out(f"{scene.project}/sub", f"{scene.outside}/secret") as got,
    ):

        def inside(answer: int) -> bytes:
            if tier != "none":
                enter(scene, tier, keep=(answer,))
            return json.dumps(pass_both_ways(f"{scene.project}/sub")).encode()

        said = json.loads(run(inside))
        expected = "TOPSECRET" if tier == "none" else "PermissionError"
        assert said == {str(int(kind)): expected for kind in KINDS}
        assert len(got) == (len(KINDS) if tier == "none" else 0)


@pytest.mark.usefixtures("confined")
def test_a_descriptor_that_an_operation_sends_to_its_supervisor_does_not_arrive(project: Path) -> None:
    """It holds one end of a socket to the supervisor, the one thing that it must share with it."""
    outcome = carry_out(project, python("smuggle", "smuggle"), python("after", "value", number=1))
    assert outcome["smuggle"] >= 1
    assert outcome["after"] == 1
    held = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
    assert not [each for each in held if operations_confined.SMUGGLED in each]


def leave_behind(key: int, name: str) -> list[str]:
    """Shared memory, semaphores, messages and a queue under names that the next one knows."""
    libc = ctypes.CDLL(None, use_errno=True)
    made = {
        "shmget": libc.shmget(key, 64, _CREATE),
        "semget": libc.semget(key, 1, _CREATE),
        "msgget": libc.msgget(key, _CREATE),
        "mq_open": libc.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None),
    }
    return [kind for kind, identifier in made.items() if identifier >= 0]


def find(key: int, name: str) -> list[str]:
    found = []
    for kind, number, arguments in (
        ("shmget", 29 if X86 else 194, (key, 64, 0)),
        ("semget", 64 if X86 else 190, (key, 1, 0)),
        ("msgget", 68 if X86 else 186, (key, 0)),
        ("mq_open", 240 if X86 else 180, (name[1:].encode(), os.O_RDONLY, 0, None)),
    ):
        with contextlib.suppress(OSError):
            raw(number, *arguments)
            found.append(kind)
    return found


@pytest.mark.parametrize("tier", TIERS)
def test_what_one_run_leaves_in_the_kernel_no_other_run_finds(tier: str) -> None:
    needs(tier)
    key, name = 0x5B000000 + os.getpid(), f"/sage-left-{os.getpid()}"
    with scene_for(os.geteuid()) as scene:

        def first(answer: int) -> bytes:
            enter(scene, tier, keep=(answer,))
            return json.dumps([leave_behind(key, name), find(key, name)]).encode()

        def second(answer: int) -> bytes:
            enter(scene, tier, keep=(answer,))
            return json.dumps(find(key, name)).encode()

        made, seen = json.loads(run(first))
        assert made == seen
        # Landlock of some kernels refuses message queues, which lie on no path
        assert set(made) - {"mq_open"} == ({"shmget", "semget", "msgget"} if tier == "namespaces" else set())
        assert json.loads(run(second)) == []
        assert find(key, name) == []
