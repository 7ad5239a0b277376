"""Every attack of `sandbox_attacks` is stopped in each tier, but for the gaps that are documented; as root too."""

from __future__ import annotations

import pytest
from sandbox_attacks import FILES, LEGITIMATE, NETWORK, PROCESSES
from sandbox_harness import attempt_confined, attempt_unconfined, scene_for, snapshot, users

from sage_actors.sandbox.probe import probe

pytestmark = pytest.mark.requirement("ORCH-023")

ATTACKS = {**FILES, **PROCESSES, **NETWORK}
MODES = ("namespaces", "alone", "landlock")
# A program from memory has the same limits as any other: no gap, but nothing to stop either.
HARMLESS = {"execute_from_memory"}
GAPS: dict[str, set[str]] = {"namespaces": set(), "alone": set(), "landlock": {"stat_outside"}}
REFUSED = {
    "landlock": {
        "writes_beside_protected_paths",
        "changes_metadata_in_the_project",
        "uses_a_pool_of_processes",
        "uses_temporary_files",
        "opens_a_terminal",
    }
}
# What the kernel or a plain user's rights stop on many machines, sandbox or not.
NOT_EVERYWHERE = {
    *("read_a_file_of_the_system", "list_homes", "write_a_startup_file_of_python", "make_a_device"),
    *("mount_a_directory", "chroot", "open_by_handle", "type_into_a_terminal", "enter_another_network"),
    *("steal_a_descriptor", "io_uring", "call_with_32_bit_numbers", "call_with_x32_numbers", "sctp", "vsock"),
    *("packet", "raw_ip", "kernel_crypto", "write_a_kernel_setting", "multipath_tcp", "setxattr_outside"),
    *("new_user_namespace", "new_user_namespace_by_clone", "new_user_namespace_by_a_program"),
    *("raise_the_core_limit", "tcp_v6", "netlink", "set_flags_of_what_may_only_be_read"),
    *("create_a_protected_path", "use_an_inherited_file"),
    *("fast_open_by_sendto", "fast_open_by_sendmsg", "fast_open_by_option", "process_vm_readv", "ptrace"),
}


def needs(mode: str) -> None:
    """Skips where this machine has no such tier, with the probe's own words."""
    report = probe()
    checks = {each.name: each for each in report.checks}
    wanted = "landlock" if mode == "landlock" else "namespaces"
    if wanted not in checks or not checks[wanted].ok:
        pytest.skip(f"{wanted}: {report.reason}")


@pytest.mark.parametrize("uid", users())
def test_the_attacks_are_some_without_a_sandbox(uid: int) -> None:
    with scene_for(uid) as scene:
        results = attempt_unconfined(scene, uid)
    assert {
        name: said for name, said in results.items() if said != "ALLOWED" and name not in NOT_EVERYWHERE
    } == {}


@pytest.mark.parametrize(
    ("uid", "version", "alone"),
    [*((uid, 0, False) for uid in users()), (users()[-1], 0, True), (users()[-1], 5, False)],
)
def test_without_landlock_or_with_an_old_one_only_signals_leave_a_shared_worker(
    uid: int, version: int, alone: bool
) -> None:
    needs("namespaces")
    with scene_for(uid) as scene:
        results = attempt_confined(scene, uid, "namespaces", alone=alone, landlock_version=version)
    allowed = {name for name in ATTACKS if results[name] == "ALLOWED"}
    assert allowed - HARMLESS == (set() if alone else {"signal_another"}), results


@pytest.mark.parametrize("uid", users())
@pytest.mark.parametrize("mode", MODES)
def test_every_attack_is_stopped_and_what_is_granted_works(uid: int, mode: str) -> None:
    needs(mode)
    with scene_for(uid) as scene:
        before = snapshot(scene)
        results = attempt_confined(scene, uid, mode.replace("alone", "namespaces"), alone=mode == "alone")
        assert snapshot(scene) == before, "something outside has changed"
    allowed = {name for name in ATTACKS if results[name] == "ALLOWED"}
    assert allowed - HARMLESS == GAPS[mode], results
    refused = {name for name in LEGITIMATE if results[name] != "ALLOWED"}
    assert refused == REFUSED.get(mode, set()), results
