"""The probe finds out by trying; hosts that refuse something are simulated with a filter of their own."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest
from sandbox_harness import become, run, users
from test_sandbox_attacks import needs

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel, seccomp
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.probe import Report, probe
from sage_actors.sandbox.profile import Profile

pytestmark = pytest.mark.requirement("ORCH-023")

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's sandbox is Linux's")


def deny(code: int, *names: str) -> None:
    """Makes system calls fail for this process from now on, as a container's own filter does."""
    instructions = [(0x20, 0, 0, 0)]
    for name in names:
        instructions += [(0x15, 0, 1, kernel.number_of(name) or 0), (0x06, 0, 0, 0x00050000 | code)]
    instructions.append((0x06, 0, 0, 0x7FFF0000))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(b"".join(struct.pack("HBBI", *each) for each in instructions))


def probed_under(uid: int, host: Callable[[], object]) -> tuple[str, str, list[str]]:
    """Tier, reason and gaps that the probe reports on such a host."""

    def inside(_: int) -> bytes:
        become(uid)
        host()
        probe.cache_clear()
        report = probe()
        return json.dumps([report.tier, report.reason, report.gaps]).encode()

    tier, reason, gaps = json.loads(run(inside))
    return tier, reason, gaps


@linux
@pytest.mark.parametrize("uid", users())
def test_what_a_container_with_dockers_filter_can_do_is_landlock(uid: int) -> None:
    needs("landlock")
    tier, reason, gaps = probed_under(
        uid, lambda: deny(errno.EPERM, "unshare", "mount", "setns", "pivot_root")
    )
    assert tier == "landlock"
    assert "unshare: " in reason
    assert "Docker" in reason
    assert any("no network" in gap for gap in gaps)


@linux
@pytest.mark.parametrize("uid", users())
def test_what_a_restriction_of_user_namespaces_leaves_is_landlock(uid: int) -> None:
    needs("landlock")
    tier, reason, _ = probed_under(uid, lambda: deny(errno.EACCES, "mount", "umount2", "pivot_root"))
    assert tier == "landlock"
    assert "root: " in reason
    assert "AppArmor" in reason


@linux
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_landlock_the_namespaces_remain_and_the_gaps_are_told(code: int) -> None:
    needs("namespaces")
    tier, reason, gaps = probed_under(os.geteuid(), lambda: deny(code, "landlock_create_ruleset"))
    assert tier == "namespaces"
    assert reason.startswith("landlock: ")
    assert "lsm=" in reason  # what it usually comes from
    assert any("no Landlock" in gap for gap in gaps)


@linux
def test_without_both_there_is_nothing() -> None:
    tier, reason, gaps = probed_under(
        os.geteuid(), lambda: deny(errno.EPERM, "unshare", "landlock_create_ruleset")
    )
    assert tier == "none"
    assert "unshare" in reason
    assert "landlock" in reason
    assert any("all the rights" in gap for gap in gaps)


@linux
def test_without_seccomp_there_is_nothing() -> None:
    tier, reason, _ = probed_under(os.geteuid(), lambda: deny(errno.EINVAL, "seccomp"))
    assert tier == "none"
    assert "seccomp" in reason


@linux
def test_a_process_that_nobody_may_read_can_still_probe() -> None:
    needs("namespaces")
    tier, *_ = probed_under(users()[-1], lambda: kernel.prctl(kernel.PR_SET_DUMPABLE, 0))
    assert tier == "namespaces"


@linux
def test_probing_works_among_threads_and_leaves_this_process_as_it_was() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        probe.cache_clear()
        before = os.readlink("/proc/self/ns/user"), os.listdir("/proc/self/fd")
        report = probe()
        assert (os.readlink("/proc/self/ns/user"), os.listdir("/proc/self/fd")) == before
        assert report.checks
    finally:
        stop.set()
        thread.join()


@linux
def test_a_fresh_process_finds_the_same() -> None:
    """Nothing that is needed inside the new root may be imported there."""
    code = "from sage_actors.sandbox.probe import probe; r = probe(); print(r.tier, r.reason)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{probe().tier} {probe().reason}\n", done.stderr


@linux
def test_the_answer_is_kept() -> None:
    assert probe() is probe()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_every_module_can_be_imported_elsewhere_and_confines_nothing_there(platform: str) -> None:
    code = """
import argparse, asyncio, contextlib, ctypes, dataclasses, glob, json, os, select, shutil, signal, socket, sys, typing
sys.platform = PLATFORM
if PLATFORM == "win32":
    sys.modules["fcntl"] = sys.modules["resource"] = None
import sage_actors.sandbox.launch, sage_actors.sandbox.namespaces, sage_actors.sandbox.environment
from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import landlock
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.probe import probe
from sage_actors.sandbox.profile import Profile
report = probe()
assert report.tier == "none" and PLATFORM in report.reason and report.gaps, report
assert landlock.abi() == 0
for tier in ("namespaces", "landlock", "none"):
    try:
        confine(Profile("p", (), (), ()), tier, keep_fds=())
    except SandboxSetupError as error:
        assert error.step == "tier"
    else:
        raise AssertionError(tier)
"""
    subprocess.run([sys.executable, "-c", f"PLATFORM = {platform!r}\n{code}"], check=True, timeout=60)


def test_the_tier_none_confines_nothing_and_says_so() -> None:
    with pytest.raises(SandboxSetupError, match=r"none.*confines nothing"):
        confine(Profile("p", (), (), ()), "none", keep_fds=())


def test_a_report_without_failed_checks_has_no_reason() -> None:
    assert Report("none", (), ()).reason == ""


_HOOKS = {
    "starts a thread": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    "hangs": "time.sleep(60)",
}


@linux
@pytest.mark.parametrize("hook", _HOOKS)
def test_a_library_with_a_hook_in_every_fork_changes_nothing(hook: str) -> None:
    program = f"""
        import json, os, sys, threading, time
        from sage_actors.sandbox import probe
        probe._HANGS_S = 0.2
        os.register_at_fork(after_in_child=lambda: {_HOOKS[hook]})
        report = probe.probe()
        print(json.dumps([report.tier, report.reason]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout) == [probe().tier, probe().reason]


@linux
def test_a_machine_that_is_slow_is_not_taken_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = probe()
    # No fork answers in time, here or elsewhere.
    monkeypatch.setattr("sage_actors.sandbox.probe._HANGS_S", 0.0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    slow = "from sage_actors.sandbox import probe; probe._HANGS_S = 0.0; probe.tell_checks()"
    done = subprocess.run(
        [sys.executable, "-c", slow], capture_output=True, text=True, check=True, timeout=60
    )
    probe.cache_clear()

    assert [each["ok"] for each in json.loads(done.stdout)] == [each.ok for each in expected.checks]
    assert probe() == expected
