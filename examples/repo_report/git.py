"""Asking git: read-only, streaming, and without running anything that the repository brings."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["Blobs", "GitError", "ask", "display", "records"]

# A configuration can name programs: monitors, signature checkers, pagers, hooks, transports. None may run.
_SAFE_OPTIONS = (
    "--no-pager",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "log.showSignature=false",
    "-c",
    "core.quotePath=false",
)
# What a hook or a shell may have set, and what would lead git to another repository or to another program.
_MISLEADING = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_EXTERNAL_DIFF",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
)
_CHUNK_BYTES = 1 << 16


class GitError(RuntimeError):
    """git refused or failed; the text is what git said."""


def ask(root: str, *arguments: str | bytes, timeout_s: float = 120.0) -> bytes:
    """What `git ARGUMENTS` prints in `root`.

    Raises:
        GitError: git is missing, failed, or took longer than `timeout_s`.
    """
    command = ["git", "-C", root, *_SAFE_OPTIONS, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, env=_environment(), timeout=timeout_s
        )
    except FileNotFoundError as cause:
        raise GitError("git is not installed, or not on the PATH") from cause
    except subprocess.TimeoutExpired as cause:
        raise GitError(f"git {display(arguments[0])} took longer than {timeout_s:g} s") from cause
    if done.returncode != 0:
        raise GitError(_reason(arguments[0], done.returncode, done.stderr))
    return done.stdout


def records(root: str, *arguments: str) -> Iterator[bytes]:
    """The NUL-terminated records that `git ARGUMENTS` prints, one by one, however many there are.

    Raises:
        GitError: git failed; what it printed before was yielded already.
    """
    command = ["git", "-C", root, *_SAFE_OPTIONS, *arguments]
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=_environment()
        ) as process:
            try:
                yield from _split(_stream(process.stdout))
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            errors.seek(0)
            raise GitError(_reason(arguments[0], process.returncode, errors.read()))


class Blobs:
    """Contents by object id, from one `git cat-file --batch`; use it as a context manager."""

    def __init__(self, root: str) -> None:
        self._process = subprocess.Popen(
            ["git", "-C", root, *_SAFE_OPTIONS, "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )

    def __enter__(self) -> Blobs:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        _stream(self._process.stdin).close()
        _stream(self._process.stdout).close()

    def read(self, object_id: str) -> bytes | None:
        """The whole content, or None where the object is not here (a partial clone).

        Raises:
            GitError: git ended.
        """
        requests, answers = _stream(self._process.stdin), _stream(self._process.stdout)
        try:
            requests.write(object_id.encode() + b"\n")
            requests.flush()
            header = answers.readline().split()
        except OSError as cause:
            raise GitError(f"git cat-file ended: {cause}") from cause
        if not header:
            raise GitError("git cat-file ended")
        if len(header) != 3:
            return None
        content: bytes = answers.read(int(header[2]))
        answers.read(1)
        return content


def display(name: str | bytes) -> str:
    """A name as valid Unicode: bytes that are not UTF-8 become backslash escapes."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    kept.update(LC_ALL="C", GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", GIT_NO_LAZY_FETCH="1")
    kept["GIT_ALLOW_PROTOCOL"] = "none"  # a partial clone must not fetch what is missing
    return kept


def _stream(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None
    return pipe


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *complete, rest = (rest + chunk).split(b"\0")
        yield from complete
    if rest:
        yield rest


def _reason(command: str | bytes, status: int, errors: bytes) -> str:
    said = display(errors.strip()[-600:]) or f"exit status {status}"
    return f"git {display(command)}: {said}"
