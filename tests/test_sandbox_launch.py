"""A program that is started confined has less than who starts it, and is not started at all otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_harness import enter, profile_of, run, scene_for
from test_sandbox_attacks import needs

from sage_actors.sandbox.confine import TIERS
from sage_actors.sandbox.launch import command, main
from sage_actors.sandbox.profile import Limits, Profile, system_paths

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's"),
]


def profile(place: Path, **more: object) -> Profile:
    return Profile("server", (*system_paths(), str(place)), (), (), **more)  # type: ignore[arg-type]


def test_a_program_reads_what_is_granted_and_writes_nothing(tmp_path: Path) -> None:
    needs("landlock")
    (tmp_path / "f").write_text("content")
    script = f"cat {tmp_path}/f; cat /etc/fstab; echo x > {tmp_path}/new; true"
    done = subprocess.run(
        command(profile(tmp_path), "landlock", ["sh", "-c", script]), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "content")
    assert done.stderr.count("ermission denied") == 2
    assert not (tmp_path / "new").exists()


def test_its_exit_code_signals_and_streams_are_its_own(tmp_path: Path) -> None:
    needs("landlock")
    argv = command(profile(tmp_path), "landlock", ["sh", "-c", "cat; exit 7"])
    done = subprocess.run(argv, input=b"hello", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"hello", b"")


def test_what_cannot_be_confined_is_not_started(tmp_path: Path) -> None:
    argv = command(profile(tmp_path, limits=Limits(files=-5)), "landlock", ["touch", f"{tmp_path}/started"])
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 126
    assert done.stderr.startswith("touch was not started: ")
    assert "limits" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', '{"surprise": 1}'])
def test_a_profile_that_is_none_starts_nothing(tmp_path: Path, text: str) -> None:
    argv = [sys.executable, "-I", "-m", "sage_actors.sandbox.launch", "--tier", "landlock", "--profile", text]
    done = subprocess.run([*argv, "--", "touch", f"{tmp_path}/started"], capture_output=True, text=True)
    assert done.returncode == 126
    assert "touch was not started" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_program_that_is_missing_is_told_apart(tmp_path: Path) -> None:
    needs("landlock")
    done = subprocess.run(
        command(profile(tmp_path), "landlock", ["no-such-program"]), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        127,
        "no-such-program could not be executed: No such file or directory\n",
    )


def test_the_profile_can_come_by_a_descriptor_that_the_program_does_not_get(tmp_path: Path) -> None:
    needs("landlock")
    read, write = os.pipe()
    os.write(write, json.dumps(profile(tmp_path).to_dict()).encode())
    os.close(write)
    argv = [
        sys.executable,
        "-I",
        "-m",
        "sage_actors.sandbox.launch",
        "--tier",
        "landlock",
        "--profile-fd",
        str(read),
    ]
    done = subprocess.run(
        [*argv, "--", "ls", "/proc/self/fd"], pass_fds=[read], capture_output=True, text=True
    )
    os.close(read)
    assert (done.returncode, len(done.stdout.split())) == (0, 4), done  # 0, 1, 2 and the listing itself


@pytest.mark.parametrize("tier", TIERS)
def test_inside_a_confined_worker_it_narrows_further(tier: str) -> None:
    needs(tier)
    with scene_for(os.geteuid()) as scene:
        worker = profile_of(scene)
        server = Profile("server", (*worker.read, scene.project), (f"{scene.project}/sub",), worker.protected)

        def inside(answer: int) -> bytes:
            enter(scene, tier, keep=(answer,))
            script = "echo x > sub/by_server; echo x > .git/config; echo x > deep/by_server; cat .git/config"
            argv = command(server, tier, ["sh", "-c", script])
            done = subprocess.run(argv, cwd=scene.project, capture_output=True, text=True)
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
            done = subprocess.run(command(server, "namespaces", ["true"]), capture_output=True, text=True)
            return json.dumps([done.returncode, done.stderr]).encode()

        code, errors = json.loads(run(inside))
        assert code == 126
        assert "mounts" in errors


def test_the_command_line_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--tier", "none", "--profile", "{}", "--", "true"])
    assert stopped.value.code == 2
    assert "invalid choice: 'none'" in capsys.readouterr().err
