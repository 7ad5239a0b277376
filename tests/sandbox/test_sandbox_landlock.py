"""Landlock grants go around what is protected; every version of the kernel's interface is asked as it understands."""

from __future__ import annotations

import ctypes
import json
import os
import re
import struct
import sys
from pathlib import Path

import pytest
from sandbox_harness import run
from test_sandbox_attacks import needs

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel, landlock
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.landlock import EXECUTE, READ, WRITE, spread
from sage_actors.sandbox.namespaces import enter_root
from sage_actors.sandbox.profile import Layout, Profile, system_paths

pytestmark = [
    pytest.mark.requirement("ORCH-023"),
    pytest.mark.skipif(sys.platform != "linux", reason="Landlock is Linux's"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small one."""
    for folder in (".git/hooks", ".git/objects", ".sage/artifacts", "src/deep"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (".git/config", ".env", "README", "src/a"):
        (tmp_path / file).touch()
    (tmp_path / "link").symlink_to(".git")
    return tmp_path


def grants(
    project: Path, *, protected: tuple[str, ...] = (), hidden: tuple[str, ...] = (), **more: object
) -> dict[str, int]:
    """Rights by name in the project."""
    found = spread(
        [],
        [str(project)],
        protected=[f"{project}/{each}" for each in protected],
        hidden=[f"{project}/{each}" for each in hidden],
        **more,  # type: ignore[arg-type]
    )
    return {os.path.relpath(path, project): rights for path, rights in found.items()}


def test_a_tree_without_anything_protected_is_one_grant(project: Path) -> None:
    assert grants(project) == {".": EXECUTE | WRITE}


def test_around_what_is_protected_entries_are_granted_one_by_one_and_no_link(project: Path) -> None:
    found = grants(project, protected=(".git/hooks", ".git/config", ".sage", ".mcp.json"))
    writable = {name for name, rights in found.items() if rights & WRITE == WRITE}
    assert writable == {".git/objects", ".env", "README", "src"}
    assert found["."] == EXECUTE  # all of it can be read


def test_what_is_reopened_is_granted_again_but_never_through_a_link(project: Path) -> None:
    reopened = [f"{project}/.sage/artifacts", f"{project}/.sage/link", "/outside"]
    (project / ".sage/link").symlink_to("../.git/hooks")
    found = grants(project, protected=(".sage", ".git/hooks"), reopened=reopened)
    assert found[".sage/artifacts"] == WRITE
    assert ".sage/link" not in found
    assert not any("outside" in name for name in found)


def test_what_is_hidden_is_not_granted_at_all(project: Path) -> None:
    found = grants(project, hidden=(".env", "src/deep"))
    assert found["."] & (EXECUTE | WRITE) == landlock.LIST
    assert {name for name in found if name.startswith((".env", "src/deep"))} == set()
    assert found["src/a"] == EXECUTE | WRITE


def test_what_a_protected_link_leads_to_is_protected(project: Path) -> None:
    found = grants(project, protected=("link",))
    assert ".git" not in found


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_an_older_version_of_the_interface_is_asked_only_for_what_it_knows(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("landlock")
    if landlock.abi() < version:
        pytest.skip(f"this kernel knows version {landlock.abi()}")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").touch()
    monkeypatch.setattr(landlock, "abi", lambda: version)

    def inside(_: int) -> bytes:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict({str(tmp_path / "in"): WRITE, "/proc": READ}, connect=() if version >= 4 else None)
        said = []
        for name in ("in/new", "out"):
            try:
                (tmp_path / name).write_text("x")
                said.append("written")
            except PermissionError:
                said.append("denied")
        return json.dumps(said).encode()

    assert json.loads(run(inside)) == ["written", "denied"]


def test_a_port_that_is_not_granted_cannot_be_connected_to() -> None:
    needs("landlock")
    if landlock.abi() < 4:
        pytest.skip("Landlock is older than version 4")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (one, other)]

        def inside(_: int) -> bytes:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            landlock.restrict({"/": EXECUTE}, connect=ports[:1])
            said = []
            for port in ports:
                with socket.socket() as sock:
                    said.append(sock.connect_ex(("127.0.0.1", port)))
            return json.dumps(said).encode()

        assert json.loads(run(inside)) == [0, 13]  # EACCES


def test_without_no_new_privs_an_ordinary_user_is_refused() -> None:
    needs("landlock")
    from sandbox_harness import become, users

    def inside(_: int) -> bytes:
        become(users()[-1])
        if os.geteuid() == 0:
            return b"EPERM"
        try:
            landlock.restrict({"/usr": READ})
        except PermissionError as error:
            return b"EPERM" if "landlock_restrict_self" in str(error) else str(error).encode()
        return b"restricted"

    assert run(inside) == b"EPERM"


@pytest.mark.parametrize("tier", ["landlock", "namespaces"])
def test_a_link_that_a_project_brings_is_no_grant_of_what_it_leads_to(tmp_path: Path, tier: str) -> None:
    """An operation may read `docs` and write `out`; the repository has links of these names to somewhere else."""
    needs(tier)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/id").write_text("KEY")
    (tmp_path / "project").mkdir()
    for name in ("docs", "out", ".git"):
        (tmp_path / "project" / name).symlink_to(tmp_path / "keys")
    project = str(tmp_path / "project")

    def read(profile: Profile, answer: int) -> bytes:
        try:
            if tier == "namespaces":
                enter_root(
                    Layout(read=(*system_paths(), f"{project}/.git"), write=(project,)), proxy_port=None
                )
            confine(profile, tier, keep_fds=(answer,))
        except SandboxSetupError as error:
            return str(error).encode()
        for name in ("docs", "out", ".git"):
            try:
                return (tmp_path / "project" / name / "id").read_bytes()
            except OSError:
                continue
        return b"nothing"

    system = system_paths()
    reading = Profile("op", (*system, f"{project}/docs", f"{project}/.git"), (), ())
    assert run(lambda answer: read(reading, answer)) == b"nothing"
    writing = Profile("op", system, (f"{project}/out",), ())
    said = run(lambda answer: read(writing, answer))
    assert said == b"nothing" if tier == "namespaces" else b"symbolic link" in said


# ---------------------------------------------------------------------- the kernel's numbers

# From include/uapi/linux/landlock.h, in the order of their bits; after each group the version that has it.
FILE_RIGHTS = {
    1: "EXECUTE WRITE_FILE READ_FILE READ_DIR REMOVE_DIR REMOVE_FILE MAKE_CHAR MAKE_DIR MAKE_REG MAKE_SOCK"
    " MAKE_FIFO MAKE_BLOCK MAKE_SYM",
    2: "REFER",
    3: "TRUNCATE",
    5: "IOCTL_DEV",
    9: "RESOLVE_UNIX",
}
NUMBERS = {
    f"LANDLOCK_ACCESS_FS_{name}": 1 << bit for bit, name in enumerate(" ".join(FILE_RIGHTS.values()).split())
} | {
    "LANDLOCK_ACCESS_NET_BIND_TCP": 1,
    "LANDLOCK_ACCESS_NET_CONNECT_TCP": 2,
    "LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET": 1,
    "LANDLOCK_SCOPE_SIGNAL": 2,
}


def bits(names: str) -> int:
    return sum(NUMBERS[f"LANDLOCK_ACCESS_FS_{name}"] for name in names.split())


def test_each_right_is_the_kernels_own() -> None:
    devices = "MAKE_CHAR MAKE_BLOCK IOCTL_DEV"
    until_5 = " ".join(each for version, each in FILE_RIGHTS.items() if version <= 5)
    assert bits("READ_FILE READ_DIR") == READ
    assert bits("READ_FILE READ_DIR EXECUTE") == EXECUTE
    assert bits(until_5) - bits(devices) == WRITE
    assert bits("READ_DIR") == landlock.LIST
    assert bits("READ_FILE WRITE_FILE TRUNCATE MAKE_REG REMOVE_FILE") == landlock.SHARE
    assert bits("READ_FILE WRITE_FILE") == landlock.USE_DEVICE
    assert bits("READ_FILE READ_DIR WRITE_FILE IOCTL_DEV") == landlock.USE_TERMINAL
    on_files = "EXECUTE WRITE_FILE READ_FILE TRUNCATE IOCTL_DEV RESOLVE_UNIX"
    assert bits(on_files) == landlock._ON_FILES
    assert NUMBERS["LANDLOCK_ACCESS_NET_CONNECT_TCP"] == landlock._CONNECT_TCP
    assert NUMBERS["LANDLOCK_SCOPE_SIGNAL"] == landlock._SCOPE_SIGNAL
    assert NUMBERS["LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET"] == landlock._SCOPE_ABSTRACT_UNIX


@pytest.mark.parametrize("version", range(1, 12))
def test_each_version_is_asked_for_all_that_it_knows_and_nothing_else(version: int) -> None:
    known = " ".join(each for since, each in FILE_RIGHTS.items() if since <= version)
    assert bits(known) == landlock._handled(version)


def test_the_header_of_this_machine_says_the_same() -> None:
    header = Path("/usr/include/linux/landlock.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define (LANDLOCK_(?:ACCESS|SCOPE)_\w+)\s+\(1ULL << (\d+)\)", header.read_text())
    said = {name: 1 << int(bit) for name, bit in found if name in NUMBERS}
    assert said
    assert said == {name: NUMBERS[name] for name in said}


def test_the_kernel_takes_the_newest_right_it_should_know_and_no_newer_one() -> None:
    """By trying: a right that this version does not have is refused with EINVAL."""
    needs("landlock")

    def create(rights: int) -> None:
        buffer = ctypes.create_string_buffer(struct.pack("Q", rights), 8)
        os.close(kernel.call("landlock_create_ruleset", buffer, 8, 0))

    handled = landlock._handled(landlock.abi())
    create(handled)
    if landlock.abi() <= 8:
        with pytest.raises(OSError, match="Invalid argument"):
            create(handled + 1)
