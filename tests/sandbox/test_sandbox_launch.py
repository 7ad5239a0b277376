"""A program that is started confined has less than who starts it, and is not started at all otherwise."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_harness import wait_until
from sandbox_harness import enter, profile_of, run, scene_for
from test_sandbox_attacks import needs

from sage_actors.sandbox import kernel
from sage_actors.sandbox.confine import TIERS
from sage_actors.sandbox.launch import Starter, order
from sage_actors.sandbox.profile import Limits, Profile, system_paths

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's"),
]

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def profile(place: Path, **more: object) -> Profile:
    return Profile("server", (*system_paths(), str(place)), (), (), **more)  # type: ignore[arg-type]


def launch(own: Profile, tier: str, argv: Sequence[str], **options: Any) -> list[Any]:
    """[exit code, its output, its errors] of a program that a process of ours starts."""
    return list(json.loads(run(lambda _: json.dumps(launch_here(own, tier, argv, **options)).encode())))


def launch_here(
    own: Profile,
    tier: str,
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str = "/",
    said: str = "",
) -> list[Any]:
    environ = {"PATH": os.environ["PATH"]} if environ is None else environ
    return carry_out(order(own, tier, argv, environ, cwd), said)


def carry_out(fd: int, said: str = "") -> list[Any]:
    """In a process that has one thread, and ends soon."""
    kernel.prctl(_SUBREAPER, 1)
    pipes = [os.pipe() for _ in range(3)]
    (stdin, write), *outputs = pipes
    pid = Starter().start(fd, (stdin, outputs[0][1], outputs[1][1]))
    for each in (stdin, outputs[0][1], outputs[1][1]):
        os.close(each)
    os.write(write, said.encode())
    os.close(write)
    texts = []
    for read, _ in outputs:
        with open(read) as text:
            texts.append(text.read())
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), *texts]


def test_a_program_reads_what_is_granted_and_writes_nothing(tmp_path: Path) -> None:
    needs("landlock")
    (tmp_path / "f").write_text("content")
    script = f"cat {tmp_path}/f; cat /etc/fstab; echo x > {tmp_path}/new; true"
    code, output, errors = launch(profile(tmp_path), "landlock", ["sh", "-c", script])
    assert (code, output) == (0, "content")
    assert errors.count("ermission denied") == 2
    assert not (tmp_path / "new").exists()


def test_its_exit_code_signals_and_streams_are_its_own(tmp_path: Path) -> None:
    needs("landlock")
    done = launch(profile(tmp_path), "landlock", ["sh", "-c", "cat; exit 7"], said="hello")
    assert done == [7, "hello", ""]
    assert launch(profile(tmp_path), "landlock", ["sh", "-c", "kill -9 $$"])[0] == -9


def test_what_cannot_be_confined_is_not_started(tmp_path: Path) -> None:
    own = profile(tmp_path, limits=Limits(files=-5))
    code, _, errors = launch(own, "landlock", ["touch", f"{tmp_path}/started"])
    assert code == 126
    assert errors.startswith("touch was not started: ")
    assert "limits" in errors
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"argv": []}', '{"argv": ["x"], "environ": {}, "profile": {"surprise": 1}}']
)
def test_an_order_that_is_none_starts_nothing(tmp_path: Path, text: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(text.replace("x", f"{tmp_path}/started").encode())
        file.seek(0)
        code, _, errors = json.loads(run(lambda _: json.dumps(carry_out(file.fileno())).encode()))
    assert code == 126
    assert " was not started: " in errors
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tier", ["none", ""])
def test_a_tier_that_confines_nothing_starts_nothing(tmp_path: Path, tier: str) -> None:
    code, _, errors = launch(profile(tmp_path), tier, ["touch", f"{tmp_path}/started"])
    assert code == 126
    assert "confines nothing" in errors
    assert os.listdir(tmp_path) == []


def test_a_program_that_is_missing_is_told_apart(tmp_path: Path) -> None:
    needs("landlock")
    done = launch(profile(tmp_path), "landlock", ["no-such-program"])
    assert done == [127, "", "no-such-program could not be executed: No such file or directory\n"]


def test_it_inherits_neither_the_order_nor_any_other_descriptor(tmp_path: Path) -> None:
    needs("landlock")

    def inside(answer: int) -> bytes:
        os.set_inheritable(answer, True)
        return json.dumps(launch_here(profile(tmp_path), "landlock", ["ls", "/proc/self/fd"])).encode()

    code, output, _ = json.loads(run(inside))
    assert (code, len(output.split())) == (0, 4)  # 0, 1, 2 and the listing itself


def test_it_leads_a_session_of_its_own_and_is_its_makers_child(tmp_path: Path) -> None:
    needs("landlock")

    def inside(_: int) -> bytes:
        script = "import os; print(os.getpid() == os.getsid(0), os.getppid())"
        _, output, errors = launch_here(profile(tmp_path), "landlock", [sys.executable, "-S", "-c", script])
        return f"{output}{errors}|True {os.getpid()}\n".encode()

    said, _, expected = run(inside).decode().partition("|")
    assert said == expected


def test_many_are_started_by_one_starter(tmp_path: Path) -> None:
    needs("landlock")

    def inside(_: int) -> bytes:
        kernel.prctl(_SUBREAPER, 1)
        starter, codes = Starter(), []
        for code in range(20):
            fd = order(
                profile(tmp_path), "landlock", ["sh", "-c", f"exit {code}"], {"PATH": os.environ["PATH"]}, "/"
            )
            codes.append(os.waitstatus_to_exitcode(os.waitpid(starter.start(fd, (0, 1, 2)), 0)[1]))
            os.close(fd)
        return json.dumps(codes).encode()

    assert json.loads(run(inside)) == list(range(20))


def test_the_starter_ends_with_its_maker(tmp_path: Path) -> None:
    def inside(_: int) -> bytes:
        kernel.prctl(_SUBREAPER, 1)
        Starter()
        (child,) = (each for each in os.listdir("/proc") if each.isdigit() and parent_of(each) == os.getpid())
        return child.encode()

    starter = Path("/proc", run(inside).decode())
    wait_until(lambda: not starter.exists(), what="the starter")


def parent_of(pid: str) -> int:
    try:
        return int(Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_its_variables_are_those_of_the_order_and_mean_nothing_before_it_is_confined(tmp_path: Path) -> None:
    """A library of LD_PRELOAD would otherwise run with what its starter may."""
    needs("landlock")
    environ = {"PATH": os.environ["PATH"], "LD_PRELOAD": f"{tmp_path}/none.so", "TOKEN": "t"}
    _, output, errors = launch(profile(tmp_path), "landlock", ["env"], environ=environ)
    assert set(output.split()) == {f"{name}={value}" for name, value in environ.items()}
    assert errors.count("none.so") == 1  # the loader's complaint: once, in the program


@pytest.mark.parametrize("tier", TIERS)
def test_inside_a_confined_worker_it_narrows_further(tier: str) -> None:
    needs(tier)
    with scene_for(os.geteuid()) as scene:
        worker = profile_of(scene)
        server = Profile("server", (*worker.read, scene.project), (f"{scene.project}/sub",), worker.protected)

        def inside(answer: int) -> bytes:
            enter(scene, tier, keep=(answer,))
            script = "echo x > sub/by_server; echo x > .git/config; echo x > deep/by_server; cat .git/config"
            return json.dumps(launch_here(server, tier, ["sh", "-c", script], cwd=scene.project)).encode()

        code, output, errors = json.loads(run(inside))
        assert (code, output) == (0, "mine"), errors
        assert Path(scene.project, "sub/by_server").exists()
        assert not Path(scene.project, "deep/by_server").exists()


def test_a_narrowing_that_needs_more_than_a_confined_worker_may_starts_nothing() -> None:
    """Something inside the writable tree would have to be protected by a new mount."""
    needs("namespaces")
    with scene_for(os.geteuid()) as scene:
        worker = profile_of(scene)
        server = Profile("server", worker.read, (scene.project,), (f"{scene.project}/sub",))

        def inside(answer: int) -> bytes:
            enter(scene, "namespaces", keep=(answer,))
            return json.dumps(launch_here(server, "namespaces", ["true"])).encode()

        code, _, errors = json.loads(run(inside))
        assert code == 126
        assert "mounts" in errors
