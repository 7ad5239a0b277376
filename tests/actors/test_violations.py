"""What the sandbox refused is told from what failed by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from sage_actors.actors.confinement import violations
from sage_actors.actors.operations.attempt_error import describe_error
from sage_actors.sandbox.profile import Profile

pytestmark = pytest.mark.requirement("ORCH-023")


@pytest.fixture(autouse=True)
def profile() -> Iterator[None]:
    violations.judge_by(
        Profile(
            name="project",
            read=("/usr", "/data"),
            write=("/work/project",),
            protected=("/work/project/.sage", "/work/project/.git/hooks"),
            hidden=("/work/project/.env",),
            reopened=("/work/project/.sage/artifacts",),
        )
    )
    yield
    violations._profile = None


def refused(number: int, path: str | bytes) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (refused(errno.EACCES, "/etc/shadow"), "read", 'add read = ["/etc/shadow"]'),
        (refused(errno.ENOENT, "/home/somebody/.aws/credentials"), "read", "add read ="),
        (refused(errno.EROFS, "/usr/lib/x"), "write", 'add write = ["/usr/lib/x"]'),
        (refused(errno.EACCES, "/data/x"), "write", "add write ="),
        (refused(errno.EROFS, "/work/project/.git/hooks/pre-commit"), "write", "protected"),
        (refused(errno.EACCES, "/work/project/.env"), "read", "hidden"),
        (refused(errno.EACCES, b"/work/project/.sage/state/r"), "write", "protected"),
    ],
)
def test_what_is_not_granted_is_a_violation_with_what_would_grant_it(
    error: OSError, kind: str, hint: str
) -> None:
    found = violations.explain(error)
    assert found is not None
    assert (found.kind, found.target) == (kind, os.fsdecode(error.filename))
    assert hint in str(found)
    assert not found.retryable


@pytest.mark.parametrize(
    "error",
    [
        refused(errno.ENOENT, "/work/project/missing.txt"),
        refused(errno.ENOENT, "/usr/share/missing"),
        refused(errno.EACCES, "/work/project/file-of-another-user"),
        refused(errno.EACCES, "/work/project/.sage/artifacts/x"),
        refused(errno.EPERM, "/proc/1/mem"),
        refused(errno.ENOSPC, "/etc/passwd"),
        OSError(errno.EACCES, "no file at all"),
        refused(errno.ENOENT, "relative.txt") if os.getcwd().startswith("/work/project") else ValueError("x"),
    ],
)
def test_what_fails_by_itself_is_none(error: BaseException) -> None:
    assert violations.explain(error) is None


def test_without_a_profile_nothing_is_a_violation() -> None:
    violations._profile = None
    assert violations.explain(refused(errno.EACCES, "/etc/shadow")) is None


def test_an_attempt_tells_of_it_and_keeps_the_cause() -> None:
    try:
        raise refused(errno.EACCES, "/etc/shadow")
    except OSError as error:
        said = describe_error(error)
    assert (said["type"], said["retryable"]) == ("SandboxViolation", False)
    assert said["details"]["target"] == "/etc/shadow"
    assert "PermissionError" in said["traceback"]
