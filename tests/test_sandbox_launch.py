"""A program that is started confined has less than who starts it, and is not started at all otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sandbox_harness import enter, profile_of, run, scene_for
from test_sandbox_attacks import needs

from sage_actors.sandbox.confine import TIERS
from sage_actors.sandbox.launch import command, order
from sage_actors.sandbox.profile import Limits, Profile, system_paths

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's"),
]


def profile(place: Path, **more: object) -> Profile:
    return Profile("server", (*system_paths(), str(place)), (), (), **more)  # type: ignore[arg-type]


def launch(
    own: Profile,
    tier: str,
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    return carry_out(order(own, tier, argv, environ or {"PATH": os.environ["PATH"]}), **options)


def carry_out(fd: int, **options: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command(fd), pass_fds=[fd], capture_output=True, text=True, **options)
    finally:
        os.close(fd)


def test_a_program_reads_what_is_granted_and_writes_nothing(tmp_path: Path) -> None:
    needs("landlock")
    (tmp_path / "f").write_text("content")
    script = f"cat {tmp_path}/f; cat /etc/fstab; echo x > {tmp_path}/new; true"
    done = launch(profile(tmp_path), "landlock", ["sh", "-c", script])
    assert (done.returncode, done.stdout) == (0, "content")
    assert done.stderr.count("ermission denied") == 2
    assert not (tmp_path / "new").exists()


def test_its_exit_code_signals_and_streams_are_its_own(tmp_path: Path) -> None:
    needs("landlock")
    done = launch(profile(tmp_path), "landlock", ["sh", "-c", "cat; exit 7"], input="hello")
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello", "")


def test_what_cannot_be_confined_is_not_started(tmp_path: Path) -> None:
    done = launch(profile(tmp_path, limits=Limits(files=-5)), "landlock", ["touch", f"{tmp_path}/started"])
    assert done.returncode == 126
    assert done.stderr.startswith("touch was not started: ")
    assert "limits" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"argv": []}', '{"argv": ["x"], "environ": {}, "profile": {"surprise": 1}}']
)
def test_an_order_that_is_none_starts_nothing(tmp_path: Path, text: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(text.replace("x", f"{tmp_path}/started").encode())
        file.seek(0)
        done = carry_out(os.dup(file.fileno()))
    assert done.returncode == 126
    assert " was not started: " in done.stderr


@pytest.mark.parametrize("tier", ["none", ""])
def test_a_tier_that_confines_nothing_starts_nothing(tmp_path: Path, tier: str) -> None:
    done = launch(profile(tmp_path), tier, ["touch", f"{tmp_path}/started"])
    assert done.returncode == 126
    assert "confines nothing" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_program_that_is_missing_is_told_apart(tmp_path: Path) -> None:
    needs("landlock")
    done = launch(profile(tmp_path), "landlock", ["no-such-program"])
    assert (done.returncode, done.stderr) == (
        127,
        "no-such-program could not be executed: No such file or directory\n",
    )


def test_it_inherits_neither_the_order_nor_any_other_descriptor(tmp_path: Path) -> None:
    needs("landlock")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    fd = order(profile(tmp_path), "landlock", ["ls", "/proc/self/fd"], {"PATH": os.environ["PATH"]})
    done = subprocess.run(command(fd), pass_fds=[fd, read], capture_output=True, text=True)
    for each in (read, write, fd):
        os.close(each)
    assert (done.returncode, len(done.stdout.split())) == (0, 4), done  # 0, 1, 2 and the listing itself


def test_its_variables_are_those_of_the_order_and_mean_nothing_before_it_is_confined(tmp_path: Path) -> None:
    """A library of LD_PRELOAD would otherwise run in the launcher, with what that may."""
    needs("landlock")
    environ = {"PATH": os.environ["PATH"], "LD_PRELOAD": f"{tmp_path}/none.so", "TOKEN": "t"}
    done = launch(profile(tmp_path), "landlock", ["env"], environ)
    assert set(done.stdout.split()) == {f"{name}={value}" for name, value in environ.items()}
    assert done.stderr.count("none.so") == 1  # the loader's complaint: of the program, not of the launcher


@pytest.mark.parametrize("tier", TIERS)
def test_inside_a_confined_worker_it_narrows_further(tier: str) -> None:
    needs(tier)
    with scene_for(os.geteuid()) as scene:
        worker = profile_of(scene)
        server = Profile("server", (*worker.read, scene.project), (f"{scene.project}/sub",), worker.protected)

        def inside(answer: int) -> bytes:
            enter(scene, tier, keep=(answer,))
            script = "echo x > sub/by_server; echo x > .git/config; echo x > deep/by_server; cat .git/config"
            done = launch(server, tier, ["sh", "-c", script], cwd=scene.project)
            return json.dumps([done.returncode, done.stdout, done.stderr]).encode()

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
            done = launch(server, "namespaces", ["true"])
            return json.dumps([done.returncode, done.stderr]).encode()

        code, errors = json.loads(run(inside))
        assert code == 126
        assert "mounts" in errors
