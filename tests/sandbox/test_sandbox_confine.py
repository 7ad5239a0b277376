"""A process is confined wholly or not at all: each step can fail, and then nothing goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from sandbox_harness import become, enter, profile_of, run, scene_for, users
from test_sandbox_attacks import needs

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox.confine import STEPS, TIERS, confine, prepare
from sage_actors.sandbox.namespaces import enter_pid_namespace, enter_root
from sage_actors.sandbox.profile import Layout, Limits, Profile, system_paths

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's"),
]

ROOT_STEPS = ("placeholders", "layout", "unshare", "loopback", "listener", "root", "protect", "directory")


def fail_at(step: str, passed: list[str]) -> object:
    def before(name: str) -> None:
        passed.append(name)
        if name == step:
            raise OSError(5, "injected")

    return before


@pytest.mark.parametrize("step", STEPS)
def test_when_a_step_fails_no_later_one_is_done_and_the_error_names_it(tmp_path: Path, step: str) -> None:
    needs("landlock")

    def inside(_: int) -> bytes:
        passed: list[str] = []
        profile = Profile("p", system_paths(), (str(tmp_path),), ())
        try:
            confine(profile, "landlock", keep_fds=range(256), before=fail_at(step, passed))  # type: ignore[arg-type]
        except SandboxSetupError as error:
            return json.dumps([error.step, str(error), passed]).encode()
        return b"null"

    named, message, passed = json.loads(run(inside))
    assert named == step
    assert "injected" in message
    assert passed == list(STEPS[: STEPS.index(step) + 1])


@pytest.mark.parametrize("step", ROOT_STEPS)
def test_when_a_step_of_the_new_root_fails_the_error_names_it(tmp_path: Path, step: str) -> None:
    needs("namespaces")

    def inside(_: int) -> bytes:
        layout = Layout(read=("/usr",), write=(str(tmp_path),))
        try:
            enter_root(layout, proxy_port=0, before=fail_at(step, []))  # type: ignore[arg-type]
        except SandboxSetupError as error:
            return error.step.encode()
        return b""

    assert run(inside).decode() == step


def test_every_step_of_the_new_root_is_one_that_can_fail(tmp_path: Path) -> None:
    needs("namespaces")

    def inside(_: int) -> bytes:
        passed: list[str] = []
        enter_root(Layout(read=("/usr",)), proxy_port=None, before=passed.append)
        return json.dumps(passed).encode()

    assert tuple(json.loads(run(inside))) == ROOT_STEPS


@pytest.mark.parametrize("tier", TIERS)
def test_a_process_with_two_threads_is_refused(tier: str) -> None:
    """Only the thread that asks would be confined: the other one could do anything."""

    def inside(_: int) -> bytes:
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        try:
            confine(Profile("p", ("/usr",), (), ()), tier, keep_fds=())
        except SandboxSetupError as error:
            return f"{error.step}: {error}".encode()
        finally:
            stop.set()
        return b"confined"

    said = run(inside).decode()
    assert said.startswith("threads: ")
    assert "2 threads" in said


def test_only_the_descriptors_that_are_named_stay_open(tmp_path: Path) -> None:
    needs("landlock")

    def inside(answer: int) -> bytes:
        kept, closed = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
        os.dup2(closed, 200)
        confine(Profile("p", system_paths(), (), ()), "landlock", keep_fds=(kept, answer))
        return json.dumps([kept, sorted(int(fd) for fd in os.listdir("/proc/self/fd"))]).encode()

    kept, left = json.loads(run(inside))
    assert kept in left
    assert len([fd for fd in left if fd > 2]) == 3, left  # that one, the answer's, and the listing itself


@pytest.mark.parametrize("tier", TIERS)
def test_limits_hold_and_are_never_raised(tmp_path: Path, tier: str) -> None:
    needs(tier)
    limits = Limits(files=64, file_size=1 << 16, memory=1 << 30, processes=40, tmp=1 << 20)
    profile = Profile("p", system_paths(), (str(tmp_path),), (), limits=limits)

    def inside(answer: int) -> bytes:
        os.closerange(3, answer)  # what the tests before this one left open would not fit
        os.closerange(answer + 1, 4096)
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
        if tier == "namespaces":
            enter_root(Layout.of(profile), proxy_port=None)
        confine(profile, tier, keep_fds=(answer,))
        names = ("CORE", "NOFILE", "FSIZE", "DATA", "NPROC")
        found = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1] for name in names}
        return json.dumps(found).encode()

    found = json.loads(run(inside))
    assert (found["CORE"], found["NOFILE"], found["FSIZE"], found["DATA"]) == (0, 50, 1 << 16, 1 << 30)
    assert (found["NPROC"] == 40) == (tier == "namespaces")  # elsewhere it would count the whole machine


def test_the_private_directory_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    needs("namespaces")
    profile = Profile("p", system_paths(), (str(tmp_path),), (), limits=Limits(tmp=1 << 20))

    def inside(answer: int) -> bytes:
        enter_root(Layout.of(profile), proxy_port=None)
        confine(profile, "namespaces", keep_fds=(answer,))
        try:
            Path("/tmp/full").write_bytes(bytes(2 << 20))
        except OSError as error:
            return str(error.errno).encode()
        return b"written"

    assert run(inside) == b"28"  # ENOSPC


@pytest.mark.parametrize("uid", users())
def test_a_profile_can_be_narrowed_and_never_widened(uid: int) -> None:
    needs("namespaces")
    with scene_for(uid) as scene:

        def inside(answer: int) -> bytes:
            become(uid)
            enter(scene, "namespaces", keep=(answer,))
            wide = profile_of(scene)
            narrow = Profile("narrow", (*wide.read, scene.project), (f"{scene.project}/sub",), wide.protected)
            confine(narrow, "namespaces", keep_fds=(answer,))
            said = {"sub": _can_write(f"{scene.project}/sub/x"), "top": _can_write(f"{scene.project}/x")}
            confine(wide, "namespaces", keep_fds=(answer,))
            said["widened"] = _can_write(f"{scene.project}/x")
            said["read"] = bool(Path(scene.project, "deep/venv/bin/python").read_text())
            return json.dumps(said).encode()

        assert json.loads(run(inside)) == {"sub": True, "top": False, "widened": False, "read": True}


@pytest.mark.parametrize("how", ["at once", "prepared", "prepared for another"])
@pytest.mark.parametrize("base", ["/tmp", "/var/lib"])
@pytest.mark.parametrize("uid", users())
def test_a_narrower_profile_in_the_root_of_a_wider_one(uid: int, base: str, how: str) -> None:
    """The project lies below a private directory, on which everything is granted; or it does not. What was prepared
    ahead changes nothing."""
    needs("namespaces")
    with scene_for(uid) as scene:
        if base != "/tmp":
            moved = f"{base}/sage-sandbox-test-{os.getpid()}"
            shutil.copytree(scene.project, moved + "/proj", symlinks=True)
            subprocess.run(["chown", "-R", f"{uid}:{uid}", moved], check=True)
            scene.project = moved + "/proj"
        try:
            found = [
                json.loads(run(partial(_narrowed, scene.project, uid, profile_of(scene), how, protects)))
                for protects in (True, False)
            ]
        finally:
            if base != "/tmp":
                shutil.rmtree(os.path.dirname(scene.project))
    expected = {"out": True, "top": False, "read_top": False, "read_sub": True, "tmp": True, "hooks": False}
    assert found == [expected, expected]  # the wider one protects the hooks


def _narrowed(project: str, uid: int, wide: Profile, how: str, protects: bool, answer: int) -> bytes:
    become(uid)
    protected = (f"{project}/deep/a/state",) if protects else ()
    narrow = Profile("narrow", (*system_paths(), f"{project}/sub"), (f"{project}/deep/a",), protected)
    enter_root(Layout.of(wide), proxy_port=None)
    if how == "at once":
        confine(narrow, "namespaces", keep_fds=(answer,))
    else:
        enter_pid_namespace()
        ahead = prepare(narrow if how == "prepared" else wide)
        confine(narrow, "namespaces", keep_fds=(answer,), prepared=ahead, alone=True)
    said = {
        "out": _can_write(f"{project}/deep/a/x"),
        "top": _can_write(f"{project}/x"),
        "read_top": _can_read(f"{project}/.git/config"),
        "read_sub": _can_read(f"{project}/sub/f"),
        "tmp": _can_write("/tmp/x"),
        "hooks": _can_write(f"{project}/deep/a/state/x"),
    }
    return json.dumps(said).encode()


def test_without_landlock_a_narrower_profile_still_holds() -> None:
    needs("namespaces")
    from test_sandbox_probe import deny

    with scene_for(os.geteuid()) as scene:

        def inside(answer: int) -> bytes:
            deny(38, "landlock_create_ruleset")
            return _narrowed(scene.project, os.geteuid(), profile_of(scene), "at once", True, answer)

        found = json.loads(run(inside))
    assert found == {
        "out": True,
        "top": False,
        "read_top": False,
        "read_sub": True,
        "tmp": True,
        "hooks": False,
    }


def test_a_protected_file_that_was_replaced_outside_is_protected_for_the_next_worker(tmp_path: Path) -> None:
    needs("namespaces")
    config = tmp_path / "config"
    config.write_text("old")
    profile = Profile("p", system_paths(), (str(tmp_path),), (str(config),))

    def inside(answer: int) -> bytes:
        enter_root(Layout.of(profile), proxy_port=None)
        (tmp_path / "ready").touch()
        _wait_for(tmp_path / "replaced")
        reached = os.access(config, os.W_OK)  # the mount went with the file that it was on
        confine(profile, "namespaces", keep_fds=(answer,))
        return json.dumps([reached, _can_write(str(config))]).encode()

    def replace() -> None:
        _wait_for(tmp_path / "ready")
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").rename(config)
        (tmp_path / "replaced").touch()

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        assert json.loads(run(inside)) == [True, False]
    finally:
        thread.join()
    assert config.read_text() == "new"


def test_no_process_that_is_started_gains_rights_back(tmp_path: Path) -> None:
    needs("landlock")

    def inside(answer: int) -> bytes:
        confine(Profile("p", system_paths(), (str(tmp_path),), ()), "landlock", keep_fds=(answer,))
        status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        return json.dumps([line for line in status.splitlines() if "Cap" in line or "Priv" in line]).encode()

    rows = dict(line.split(":\t") for line in json.loads(run(inside)))
    kept = 0b11011 if os.geteuid() == 0 else 0  # chown, dac_override, fowner, fsetid
    assert rows["NoNewPrivs"] == "1"
    assert int(rows["CapEff"], 16) == int(rows["CapPrm"], 16) == kept
    assert int(rows["CapAmb"], 16) == 0


def test_as_root_a_project_of_another_user_can_be_worked_on() -> None:
    needs("namespaces")
    if os.geteuid() != 0:
        pytest.skip("only root may")
    with scene_for(1000) as scene:

        def inside(answer: int) -> bytes:
            enter(scene, "namespaces", keep=(answer,))
            os.chmod(f"{scene.project}/sub", 0o500)
            return json.dumps([_can_write(f"{scene.project}/sub/x"), os.stat(scene.project).st_uid]).encode()

        assert json.loads(run(inside)) == [True, 1000]


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.002)


def _can_write(path: str) -> bool:
    try:
        with open(path, "a"):
            return True
    except OSError:
        return False


def _can_read(path: str) -> bool:
    try:
        with open(path):
            return True
    except OSError:
        return False
