"""Confines this process, and all that it will ever start, to a profile. There is no way back.

    threads -> mounts -> descriptors -> limits -> no_new_privs -> Landlock -> capabilities -> seccomp

Each layer may need what a later one takes away, so seccomp comes last. Landlock and seccomp hold for the calling
thread and for what it starts, not for threads that exist already: hence the first step. A process can be confined
again, narrower: Landlock layers (16 at most) and filters add up.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel, landlock, mounts, seccomp
from sage_actors.sandbox.placeholders import make_placeholders
from sage_actors.sandbox.profile import Limits, Profile, device_paths, is_beneath, is_beneath_any

if sys.platform != "win32":
    import resource  # now: nothing can be imported once the files are gone

__all__ = ["STEPS", "TIERS", "Preparation", "confine", "prepare"]

TIERS = ("namespaces", "landlock")
STEPS = (
    "tier",
    "threads",
    "mounts",
    "descriptors",
    "limits",
    "no_new_privs",
    "landlock",
    "capabilities",
    "seccomp",
)
_SHARED_MEMORY = "/dev/shm"

# So that files of others in the project can be worked on.
_AS_ROOT = frozenset((kernel.CAP_CHOWN, kernel.CAP_DAC_OVERRIDE, kernel.CAP_FOWNER, kernel.CAP_FSETID))


@dataclass(slots=True)
class Preparation:
    """What takes longest of confining in the tier "namespaces", made ahead for grants that are likely.

    It holds for this process and this mount namespace: whoever mounts something in between throws it away. A look at
    what is writable or visible is no part of it, as that may change.
    """

    grants: tuple[object, ...]
    private: list[str]
    further: list[str]
    ruleset: int  # a descriptor; -1: there is none

    def drop(self) -> None:
        """Lets go of the ruleset."""
        if self.ruleset >= 0:
            os.close(self.ruleset)
        self.ruleset = -1


def prepare(profile: Profile) -> Preparation:
    """Makes ahead what `confine` needs for profiles that grant the same, if the caller is `alone`. Raises OSError."""
    private, further = _look(profile)
    seccomp.program(sockets=profile.network, namespaces=True, own_pids=True)
    rules = _grants(profile, private)
    ruleset = landlock.build(rules, connect=profile.connect) if landlock.abi() else -1
    return Preparation(_key(profile), private, further, ruleset)


def confine(
    profile: Profile,
    tier: str,
    *,
    keep_fds: Collection[int],
    prepared: Preparation | None = None,
    alone: bool = False,
    before: Callable[[str], None] = lambda _: None,
) -> None:
    """Confines this process, which must have one thread. In the tier "namespaces" it must be inside `enter_root`.

    keep_fds: descriptors that stay open besides 0, 1 and 2; each is a grant. prepared: used if it is for the same
    grants, and gone afterwards. alone: it is `fork_apart` from others, so that mounts and process numbers are its own
    already. before: called with the name of each of `STEPS`; for faults in tests. Raises SandboxSetupError that names
    the step: the process must then end at once, as it is confined in part.
    """
    if prepared is None or tier != "namespaces" or prepared.grants != _key(profile):
        prepared = Preparation((), [], [], -1)  # what was prepared is closed with all else
    private: list[str] = []
    actions: dict[str, Callable[[], object]] = {
        "tier": lambda: _check_tier(tier),
        "threads": _check_threads,
        "mounts": lambda: private.extend(
            _narrow_mounts(profile, prepared, alone) if tier == "namespaces" else ()
        ),
        "descriptors": lambda: kernel.close_all_but((*keep_fds, prepared.ruleset)),
        "limits": lambda: _limit(profile.limits, own_users=tier == "namespaces"),
        "no_new_privs": lambda: kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1),
        "landlock": lambda: _restrict_files(profile, tier, private, prepared),
        "capabilities": lambda: kernel.keep_capabilities(_AS_ROOT if os.geteuid() == 0 else frozenset()),
        "seccomp": lambda: _filter_calls(profile, tier, own_pids=alone),
    }
    for name in STEPS:
        try:
            before(name)
            actions[name]()
        except Exception as cause:  # whatever it was, nothing may go on
            raise SandboxSetupError(name, str(cause)) from cause


def _check_tier(tier: str) -> None:
    if tier not in TIERS:
        raise ValueError(f"{tier!r} confines nothing (there are {' and '.join(TIERS)})")
    kernel.machine()


def _check_threads() -> None:
    count = len(os.listdir("/proc/self/task"))
    if count != 1:
        raise OSError(errno.EBUSY, f"this process has {count} threads, and only this one would be confined")


def _key(profile: Profile) -> tuple[object, ...]:
    return (profile.read, profile.write, profile.shared, profile.connect)


def _look(profile: Profile) -> tuple[list[str], list[str]]:
    return mounts.look(profile.read, profile.write, everywhere=not landlock.abi())


def _narrow_mounts(profile: Profile, prepared: Preparation, alone: bool) -> list[str]:
    """Takes away what the root holds and this profile does not, where Landlock cannot: in a mount namespace of
    its own, and only if there is such a thing. Returns the private directories that may be granted."""
    private, further = (prepared.private, prepared.further) if prepared.grants else _look(profile)
    within = [each for each in profile.protected if is_beneath_any(each, profile.write)]
    protected, hidden = mounts.open_for(within, profile.hidden)
    if not (protected or hidden or further):
        return private
    if protected or hidden:
        prepared.drop()  # a placeholder that is made now may be granted; around a cover the same files are
    try:
        if not alone:
            kernel.unshare(kernel.CLONE_NEWNS)
    except PermissionError:  # confined already
        if protected or hidden or not landlock.abi():
            raise
        # A grant on a private directory reaches what is mounted inside it: leave those out.
        return [path for path in private if not any(is_beneath(each, path) for each in further)]
    for path in further:
        mounts.narrow(path, profile.read, profile.write)
    protected, hidden = mounts.open_for(within, profile.hidden)
    make_placeholders(profile.write, protected)
    mounts.shield(profile.write, protected=protected, hidden=hidden, reopened=profile.reopened)
    return private


def _limit(limits: Limits, *, own_users: bool) -> None:
    for kind, value in _rlimits(limits, own_users=own_users):
        _, hard = resource.getrlimit(kind)
        lower = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (lower, lower))


def _rlimits(limits: Limits, *, own_users: bool) -> Iterator[tuple[int, int]]:
    yield resource.RLIMIT_CORE, 0
    # Outside of an own user namespace the kernel would count all processes of this user on the machine.
    processes = limits.processes if own_users else None
    for kind, value in (
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_FSIZE, limits.file_size),
        (resource.RLIMIT_DATA, limits.memory),
        (resource.RLIMIT_NPROC, processes),
    ):
        if value is not None:
            yield kind, value


def _restrict_files(profile: Profile, tier: str, private: list[str], prepared: Preparation) -> None:
    if prepared.ruleset >= 0:
        landlock.enforce(prepared.ruleset)
        prepared.drop()
        return
    if tier == "namespaces" and not landlock.abi():
        return  # the root holds nothing else; the probe names what is missing
    if tier == "landlock":
        spread = landlock.spread(
            profile.read,
            profile.write,
            protected=profile.protected,
            hidden=profile.hidden,
            reopened=profile.reopened,
        )
        landlock.restrict({**_common_grants(), **spread})
        return
    landlock.restrict(_grants(profile, private), connect=profile.connect)


def _grants(profile: Profile, private: list[str]) -> dict[str, int]:
    """Inside of the new root, where mounts keep what is protected."""
    grants = dict.fromkeys(profile.read, landlock.EXECUTE) | _common_grants()
    grants |= {"/dev/pts": landlock.USE_TERMINAL}
    if not profile.shared:
        private, grants[_SHARED_MEMORY] = [], landlock.SHARE
    for path in (*private, *profile.write):
        grants[path] = landlock.WRITE
    return grants


def _common_grants() -> dict[str, int]:
    return {"/proc": landlock.READ, **dict.fromkeys(device_paths(), landlock.USE_DEVICE)}


def _filter_calls(profile: Profile, tier: str, *, own_pids: bool) -> None:
    within = tier == "namespaces"
    filter_ = seccomp.program(
        sockets=profile.network and within, namespaces=within, own_pids=own_pids and within
    )
    seccomp.install(filter_)
