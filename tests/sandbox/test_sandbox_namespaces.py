"""The new root holds what the layout names, wherever that lies; a PID namespace leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox_harness import become, run, users
from test_sandbox_attacks import needs

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel, landlock
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.namespaces import (
    Entered,
    enter_pid_namespace,
    enter_root,
    kill_namespace,
    user_namespace_of,
)
from sage_actors.sandbox.placeholders import remove_placeholders
from sage_actors.sandbox.profile import Layout, Profile, private_paths, system_paths

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may reach."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="sage-layout-"))
    base.chmod(0o777)
    yield base
    shutil.rmtree(base)


def inside(layout: Layout, look: Callable[[Entered], object], *, uid: int = -1) -> object:
    """What `look` returns inside the new root."""
    needs("namespaces")

    def enter(_: int) -> bytes:
        become(os.geteuid() if uid < 0 else uid)
        return json.dumps(look(enter_root(layout, proxy_port=0))).encode()

    return json.loads(run(enter))


# The root


def test_nothing_but_the_layout_is_there(place: Path) -> None:
    (place / "other").mkdir()
    (place / "project").mkdir()
    layout = Layout(read=("/usr", "/bin", "/lib64"), write=(str(place / "project"),), private=("/tmp",))
    found = inside(layout, lambda _: [sorted(os.listdir("/")), os.listdir(place), os.listdir("/dev/pts")])
    assert found == [
        ["bin", "dev", "lib64", "proc", "tmp", "usr"] if os.path.islink("/bin") else found[0],  # type: ignore[index]
        ["project"],
        ["ptmx"],
    ]


def test_the_working_directory_stays_if_it_is_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "project/sub").mkdir(parents=True)
    (place / "other").mkdir()
    layout = Layout(write=(str(place / "project"),))
    monkeypatch.chdir(place / "project/sub")
    assert inside(layout, lambda _: os.getcwd()) == str(place / "project/sub")
    monkeypatch.chdir(place / "other")
    assert inside(layout, lambda _: os.getcwd()) == str(place / "project")


def test_links_lead_where_they_led(place: Path) -> None:
    (place / "real/project").mkdir(parents=True)
    (place / "real/project/f").write_text("x")
    (place / "link").symlink_to("real")
    (place / "far").symlink_to(place / "link/project")
    layout = Layout(read=("/usr", "/bin"), write=(str(place / "far"),))
    assert inside(
        layout, lambda _: [(place / each / "f").read_text() for each in ("far", "link/project")]
    ) == [
        "x",
        "x",
    ]


def test_a_chain_of_links_without_end_is_no_grant(place: Path) -> None:
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    assert inside(Layout(read=("/usr", str(place / "a"))), lambda _: os.path.exists(place / "a")) is False
    with pytest.raises(AssertionError, match="Too many levels"):
        inside(Layout(write=(str(place / "a"),)), lambda _: None)


def test_a_writable_path_that_is_missing_is_an_error_and_a_readable_one_is_not(place: Path) -> None:
    assert inside(Layout(read=(str(place / "missing"),)), lambda _: os.path.exists(place)) is False
    with pytest.raises(AssertionError, match="layout"):
        inside(Layout(write=(str(place / "missing"),)), lambda _: None)


@pytest.mark.parametrize("uid", users())
def test_files_can_be_granted_and_nested_paths_too(place: Path, uid: int) -> None:
    (place / "tree/inner").mkdir(parents=True)
    (place / "tree/inner").chmod(0o777)
    (place / "file").write_text("content")
    layout = Layout(read=(str(place / "file"), str(place / "tree")), write=(str(place / "tree/inner"),))

    def look(_: Entered) -> object:
        (place / "tree/inner/new").write_text("x")
        with contextlib.suppress(OSError):
            (place / "tree/new").write_text("x")
        with contextlib.suppress(OSError):
            (place / "file").write_text("x")
        return [(place / "file").read_text(), os.listdir(place / "tree")]

    assert inside(layout, look, uid=uid) == ["content", ["inner"]]
    assert (place / "tree/inner/new").stat().st_uid == uid


def test_what_is_readable_inside_a_writable_tree_stays_writable(place: Path) -> None:
    (place / "project/.git").mkdir(parents=True)
    layout = Layout(read=(str(place / "project/.git"),), write=(str(place / "project"),))
    assert inside(layout, lambda _: (place / "project/.git/HEAD").write_text("x")) == 1


def test_names_that_are_no_text_can_be_granted(place: Path) -> None:
    name = os.fsdecode(b"\xff\xfe project")
    project = f"{place}/{name}"
    os.makedirs(project + "/.git/hooks")
    layout = Layout(write=(project,), protected=(project + "/.git/hooks", project + "/.claude"))

    def look(_: Entered) -> object:
        os.mkdir(project + "/new")
        return [
            _errno(os.mkdir, project + "/.git/hooks/x"),
            _errno(os.rename, project + "/.git", project + "/g"),
        ]

    assert inside(layout, look) == [30, 16]  # EROFS, EBUSY
    assert os.path.isdir(project + "/new")


@pytest.mark.parametrize("uid", users())
def test_a_project_may_be_the_home_directory(place: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    home = place / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    monkeypatch.setenv("HOME", str(home))
    layout = Layout(read=("/usr",), write=(str(home),), private=private_paths())
    assert inside(layout, lambda _: (home / "kept").write_text("x"), uid=uid) == 1
    assert (home / "kept").exists()


def test_another_home_is_empty_writable_and_gone_afterwards(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))

    def look(_: Entered) -> object:
        before = os.listdir(home)
        (home / ".cache").mkdir()
        return before

    assert inside(Layout(read=("/usr",), private=private_paths()), look) == []
    assert os.listdir(home) == [".ssh"]


def test_the_network_has_no_way_out_but_the_listener() -> None:
    needs("namespaces")
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]

        def look(entered: Entered) -> object:
            assert entered.listener is not None
            return [_connects(entered.listener.getsockname()[1]), _connects(port)]

        assert inside(Layout(read=system_paths()), look) == [True, False]


def test_system_paths_hold_no_private_key_and_no_home() -> None:
    found = system_paths()
    home = os.path.expanduser("~")
    assert not {"/", "/etc", "/etc/ssl", "/etc/shadow", "/tmp", "/var", home} & set(found)
    assert {"/usr", "/etc/passwd"} <= set(found)


# What is protected


def test_what_does_not_exist_is_kept_by_placeholders_that_go_afterwards(place: Path) -> None:
    project = str(place)
    protected = tuple(f"{project}/{each}" for each in (".mcp.json", ".git/hooks", ".git/config"))
    placeholders = inside(Layout(write=(project,), protected=protected), lambda entered: entered.placeholders)
    assert sorted(os.listdir(project)) == [".git", ".mcp.json"]
    assert [path for path, *_ in placeholders] == [f"{project}/.mcp.json", f"{project}/.git"]  # type: ignore[attr-defined]
    remove_placeholders(placeholders)  # type: ignore[arg-type]
    assert os.listdir(project) == []
    remove_placeholders(placeholders)  # type: ignore[arg-type]


@pytest.mark.parametrize("uid", users())
def test_what_does_not_exist_cannot_be_created_inside(place: Path, uid: int) -> None:
    project = str(place)

    def look(_: Entered) -> object:
        return [
            _errno(os.mkdir, f"{project}/.git/hooks"),
            _errno(os.rename, f"{project}/.git", f"{project}/git"),
            _errno(os.rmdir, f"{project}/.git"),
            _errno(os.mkdir, f"{project}/.claude"),
            _errno(os.mkdir, f"{project}/a/b/c"),
            _errno(os.mkdir, f"{project}/new"),
        ]

    names = (".git/hooks", ".git/config", ".claude", "a/b/c")
    layout = Layout(write=(project,), protected=tuple(f"{project}/{each}" for each in names))
    assert inside(layout, look, uid=uid) == [30, 16, 16, 17, 2, None]  # EROFS, EBUSY, EBUSY, EEXIST, ENOENT


def test_a_file_in_the_way_of_a_protected_path_is_held(place: Path) -> None:
    """As `.git` is a file in a linked worktree: removed, it would make place for `.git/hooks`."""
    project = str(place)
    (place / ".git").write_text("gitdir: elsewhere")

    def look(_: Entered) -> object:
        return [_errno(os.unlink, f"{project}/.git"), _errno(os.truncate, f"{project}/.git", 0)]

    layout = Layout(write=(project,), protected=(f"{project}/.git/hooks", f"{project}/.git/config"))
    assert inside(layout, look) == [16, 30]


def test_a_placeholder_that_went_during_a_run_is_made_again_for_the_next_worker(place: Path) -> None:
    project = str(place)
    profile = Profile("p", ("/usr",), (project,), (f"{project}/.claude",))

    def look(_: Entered) -> object:
        kernel.unmount(f"{project}/.claude")
        os.rmdir(f"{project}/.claude")
        confine(profile, "namespaces", keep_fds=range(256))
        return [_errno(os.mkdir, f"{project}/.claude"), _errno(os.rmdir, f"{project}/.claude")]

    assert inside(Layout.of(profile), look) == [17, 16]


def test_a_link_cannot_be_made_writable(place: Path) -> None:
    (place / ".git/hooks").mkdir(parents=True)
    (place / ".sage").mkdir()
    (place / ".sage/artifacts").symlink_to("../.git/hooks")
    project = str(place)
    layout = Layout(
        write=(project,),
        protected=(f"{project}/.sage", f"{project}/.git/hooks"),
        reopened=(f"{project}/.sage/artifacts",),
    )
    with pytest.raises(AssertionError, match=r"protect.*symbolic link"):
        inside(layout, lambda _: None)


def test_a_link_in_the_way_of_a_protected_path_is_held_and_its_end_protected(place: Path) -> None:
    (place / "store/git/hooks").mkdir(parents=True)
    (place / ".git").symlink_to("store/git")
    project = str(place)

    def look(_: Entered) -> object:
        return [
            _errno(os.unlink, f"{project}/.git"),
            _errno(os.mkdir, f"{project}/.git/hooks/x"),
            _errno(os.mkdir, f"{project}/store/git/hooks/x"),
            _errno(os.rename, f"{project}/store", f"{project}/moved"),
            os.readlink(f"{project}/.git"),
        ]

    layout = Layout(write=(project,), protected=(f"{project}/.git/hooks",))
    assert inside(layout, look) == [16, 30, 30, 16, "store/git"]


# Processes


def test_what_was_daemonised_ends_with_the_namespace(place: Path) -> None:
    needs("namespaces")

    def leave_a_daemon(_: int) -> bytes:
        enter_root(Layout(read=("/usr",), write=(str(place),)), proxy_port=None)
        enter_pid_namespace()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for which in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(which, signal.SIG_IGN)
                with open(place / "alive", "w") as alive:
                    alive.write("x")
                    alive.flush()
                    while True:
                        signal.pause()
            os._exit(0)
        os.wait()
        _wait_until(lambda: (place / "alive").exists() and (place / "alive").stat().st_size > 0)
        return user_namespace_of(os.getpid()).encode()  # type: ignore[union-attr]

    namespace = run(leave_a_daemon).decode()
    _wait_until(lambda: not _members(namespace))


@pytest.mark.parametrize("uid", users())
def test_the_end_of_the_inner_process_is_passed_on(uid: int) -> None:
    """In a process with more descriptors than select(2) knows, too."""
    needs("namespaces")
    ends: list[tuple[Callable[[], object], int]] = [
        (lambda: os._exit(0), 0),
        (lambda: os._exit(42), 42),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9),
        (lambda: _crash(), -signal.SIGSEGV),
    ]
    for end, expected in ends:
        child = os.fork()
        if child == 0:
            try:
                become(uid)
                enter_root(Layout(read=("/usr",)), proxy_port=None)
                if resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1200:
                    [os.dup(0) for _ in range(1050)]
                enter_pid_namespace()
                end()
            finally:
                os._exit(99)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == expected


@pytest.mark.parametrize("uid", users())
def test_who_is_confined_cannot_touch_the_first_process_of_its_namespace(uid: int) -> None:
    """It is not confined itself, and of the same user. Not for want of Landlock, either."""
    needs("namespaces")

    def attack(answer: int) -> bytes:
        become(uid)
        landlock.abi = lambda: 0
        profile = Profile("plain", system_paths(), (), ())
        enter_root(Layout.of(profile), proxy_port=None)
        enter_pid_namespace()
        confine(profile, "namespaces", keep_fds=(answer,), alone=True)
        tried = {
            "exists": _errno(os.kill, 1, 0),
            "killed": _errno(os.kill, 1, signal.SIGKILL),
            "mem": _errno(os.open, "/proc/1/mem", os.O_RDONLY),
            "environ": _errno(os.open, "/proc/1/environ", os.O_RDONLY),
            "root": _errno(os.listdir, "/proc/1/root/etc"),
            "fd": _errno(os.readlink, "/proc/1/fd/0"),
        }
        return json.dumps(tried).encode()

    found = json.loads(run(attack))
    assert found.pop("exists") is None
    found.pop("killed")  # wherever it went: the answer came
    assert set(found.values()) <= {errno.EACCES, errno.EPERM}, found


def test_the_first_process_reaps_orphans() -> None:
    needs("namespaces")

    def leave_orphans(_: int) -> bytes:
        enter_root(Layout(read=("/usr",)), proxy_port=None)
        enter_pid_namespace()
        for _each in range(5):
            child = os.fork()
            if child == 0:
                if os.fork() == 0:
                    time.sleep(0.05)
                os._exit(0)
            os.waitpid(child, 0)
        _wait_until(lambda: len([each for each in os.listdir("/proc") if each.isdigit()]) == 2)
        return b"reaped"

    assert run(leave_orphans) == b"reaped"


def test_killing_the_outer_process_ends_the_inner_one(place: Path) -> None:
    needs("namespaces")
    child = os.fork()
    if child == 0:
        try:
            enter_root(Layout(read=("/usr",), write=(str(place),)), proxy_port=None)
            enter_pid_namespace()
            (place / "namespace").write_text(user_namespace_of(os.getpid()) or "")
            while True:
                signal.pause()
        finally:
            os._exit(99)
    _wait_until(lambda: (place / "namespace").exists() and (place / "namespace").stat().st_size > 0)
    namespace = (place / "namespace").read_text()
    for which in (signal.SIGTERM, signal.SIGINT):
        os.kill(child, which)  # the outer process ends when the inner one does, not before
    assert len(_members(namespace)) == 3
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _wait_until(lambda: not _members(namespace))


def test_an_outer_process_that_dies_before_the_inner_one_asks_for_its_signal_takes_it_along(
    place: Path,
) -> None:
    """Between fork and PR_SET_PDEATHSIG nobody would tell the inner process: the pipe does."""
    needs("namespaces")
    child = os.fork()
    if child == 0:
        try:
            enter_root(Layout(read=("/usr",), write=(str(place),)), proxy_port=None)
            real = kernel.prctl

            def late(option: int, *arguments: int) -> int:
                (place / "namespace").write_text(os.readlink("/proc/self/ns/user"))
                _wait_until(lambda: (place / "killed").exists())
                return real(option, *arguments)

            kernel.prctl = late
            enter_pid_namespace()
            (place / "survived").touch()
            signal.pause()
        finally:
            os._exit(99)
    _wait_until(lambda: (place / "namespace").exists() and (place / "namespace").stat().st_size > 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (place / "killed").touch()
    namespace = (place / "namespace").read_text()
    _wait_until(lambda: not _members(namespace))
    assert not (place / "survived").exists()


def test_a_namespace_can_be_killed_from_outside(place: Path) -> None:
    needs("namespaces")
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            enter_root(Layout(read=("/usr",), write=(str(place),)), proxy_port=None)
            for _ in range(3):
                if os.fork() == 0:
                    break
            (place / f"ready{os.getpid()}").touch()
            while True:
                signal.pause()
        finally:
            os._exit(99)
    _wait_until(lambda: len(os.listdir(place)) == 4)
    namespace = user_namespace_of(child)
    assert namespace is not None
    assert namespace != user_namespace_of(os.getpid())
    assert kill_namespace(namespace) == 4
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    _wait_until(lambda: not _members(namespace))


def test_nobody_kills_their_own_namespace() -> None:
    with pytest.raises(ValueError, match="own"):
        kill_namespace(user_namespace_of(os.getpid()) or "")


def test_a_process_that_cannot_have_a_pid_namespace_says_so() -> None:
    def without_rights(_: int) -> bytes:
        become(users()[-1])
        try:
            if os.geteuid() != 0:
                enter_pid_namespace()
        except SandboxSetupError as error:
            return error.step.encode()
        return b"pid namespace"

    assert run(without_rights) == b"pid namespace"


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def _crash() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    import ctypes

    ctypes.string_at(0)


def _errno(act: Callable[..., object], *arguments: object) -> int | None:
    try:
        act(*arguments)
    except OSError as error:
        return error.errno
    return None


def _members(namespace: str) -> list[int]:
    return [
        int(pid) for pid in os.listdir("/proc") if pid.isdigit() and user_namespace_of(int(pid)) == namespace
    ]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
