"""The master keys that seal state: from the environment, the OS keychain, or a private file.

The first source that has one is used. A source that has a bad one is an error, never a reason to look
further: a run that was silently sealed under another key is a run that nobody can resume.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sage_actors.actors.disk import (
    DISK,
    check_directory_of,
    create_private,
    exclusive,
    make_private_directory,
    publish,
    read_all,
    replace_file,
    temporary_name,
    why_not_private,
)
from sage_actors.messages.errors import KeyUnusableError

__all__ = [
    "KEYCHAIN_SERVICE",
    "KEYCHAIN_USER",
    "KEY_VARIABLE",
    "KeyRing",
    "MasterKey",
    "create_key_file",
    "default_key_path",
    "format_key",
    "load_keys",
    "rotate_key_file",
]

KEY_VARIABLE = "SAGE_STATE_KEY"
KEYCHAIN_SERVICE = "sage-actors"
KEYCHAIN_USER = "state-key"
_PREFIX = "sak1-"
_BODY = re.compile(r"[A-Za-z0-9+/]{43}=?")
_FILE_LIMIT_BYTES = 64 * 1024
# Modules of the backends that an operating system protects. With `keyrings.alt` installed, keyring picks
# a plain text file without a word.
_SAFE_BACKENDS = frozenset(
    f"keyring.backends.{name}" for name in ("macOS", "SecretService", "libsecret", "kwallet", "Windows")
)


@dataclass(frozen=True, slots=True)
class MasterKey:
    """32 bytes that each journal segment's key is derived from. `id`: 8 bytes that say nothing of them."""

    secret: bytes = field(repr=False)
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", hmac.digest(self.secret, b"sage-actors/v1/key-id", "sha256")[:8])


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that may open state; `primary` (the first) seals new state.

    `source` is "environment", "keychain" or "file".
    """

    keys: tuple[MasterKey, ...]
    source: str

    @property
    def primary(self) -> MasterKey:
        return self.keys[0]

    def get(self, key_id: bytes) -> MasterKey | None:
        """The key of that id, if this ring has it."""
        return next((key for key in self.keys if key.id == key_id), None)


class _KeychainClosedError(Exception):
    """There is a keychain, and it did not answer (locked, no session)."""


def load_keys(
    *, environ: Mapping[str, str] = os.environ, path: Path | None = None, create: bool = True
) -> KeyRing:
    """The keys of the first source that has any: $SAGE_STATE_KEY, the OS keychain, the key file.

    Args:
        path: the key file; `default_key_path()` if None.
        create: make the key file when no source has a key.

    Raises:
        KeyUnusableError: a source holds something that is no usable key, the key file is not private, the
            keychain is locked and there is no key file, or there is no key at all and `create` is false.
    """
    text = environ.get(KEY_VARIABLE)
    if text is not None:
        return KeyRing(_parse(text, f"${KEY_VARIABLE}"), "environment")
    path = path or default_key_path(environ)
    try:
        stored = _ask_keychain()
    except _KeychainClosedError as cause:
        if not os.path.lexists(path):  # a new file would seal runs that the keychain's key cannot open later
            raise KeyUnusableError(
                f"the keychain does not answer ({cause}); unlock it, or set ${KEY_VARIABLE}"
            ) from cause
        stored = None
    if stored is not None:
        return KeyRing(_parse(stored, "the keychain"), "keychain")
    return _load_file(path, create=create)


def default_key_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/sage-actors/state.key`, by default under `~/.config`."""
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():  # the XDG specification: relative paths are to be ignored
        try:
            base = Path(environ.get("HOME") or Path.home()) / ".config"
        except RuntimeError as cause:
            raise KeyUnusableError(
                f"there is no home directory for a key file; set ${KEY_VARIABLE}"
            ) from cause
    return base / "sage-actors" / "state.key"


def format_key(secret: bytes) -> str:
    """The text form of a key: `sak1-` and the URL-safe base64 of its 32 bytes.

    >>> format_key(bytes(range(32)))
    'sak1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8'
    """
    return _PREFIX + base64.urlsafe_b64encode(secret).decode("ascii").rstrip("=")


def create_key_file(path: Path) -> KeyRing:
    """Make a key file with a new key: 0600, whole or not there, never over an existing one.

    Raises:
        KeyUnusableError: the file exists, or cannot be made.
    """
    temporary = temporary_name(path)
    try:
        make_private_directory(path.parent)
        fd = create_private(temporary)
        try:
            DISK.write_all(fd, _file_text((MasterKey(os.urandom(32)),)))
            DISK.sync(fd)
        finally:
            os.close(fd)
        publish(temporary, path)
    except OSError as cause:
        temporary.unlink(missing_ok=True)
        raise KeyUnusableError(f"cannot make the key file {path}: {cause}") from cause
    return _read_file(path)


def rotate_key_file(path: Path) -> KeyRing:
    """Put a new key first in the key file; the older ones stay, to read what they sealed.

    Raises:
        KeyUnusableError: the file is unusable, or cannot be replaced (it is then unchanged).
    """
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with exclusive(fd):  # two rotations at once must not lose each other's key
                keys = (MasterKey(os.urandom(32)), *_read_file(path).keys)
                replace_file(path, _file_text(keys))
        finally:
            os.close(fd)
    except OSError as cause:
        raise KeyUnusableError(f"cannot rotate the key file {path}: {cause}") from cause
    return KeyRing(keys, "file")


def _load_file(path: Path, *, create: bool) -> KeyRing:
    if not os.path.lexists(path):
        if not create:
            raise KeyUnusableError(
                f"no key: set ${KEY_VARIABLE}, or make {path} with `sage-actors keys create`"
            )
        try:
            return create_key_file(path)
        except KeyUnusableError:
            if not os.path.lexists(path):
                raise  # else another process made it first: use that one
    return _read_file(path)


def _read_file(path: Path) -> KeyRing:
    try:
        check_directory_of(path, "the key's directory", KeyUnusableError)
        # O_NONBLOCK: a FIFO in the file's place must not hold this process up
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            reason = why_not_private(fd) or ("it has several names" if os.fstat(fd).st_nlink != 1 else "")
            if reason:
                raise KeyUnusableError(
                    f"the key file {path} is not private: {reason}; make it a 0600 file of your own, "
                    "and rotate the key if others could read it"
                )
            data = read_all(fd, limit_bytes=_FILE_LIMIT_BYTES)
        finally:
            os.close(fd)
    except OSError as cause:
        raise KeyUnusableError(f"cannot read the key file {path}: {cause}") from cause
    lines = data.decode("utf-8", "replace").splitlines()
    text = ",".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return KeyRing(_parse(text, f"the key file {path}"), "file")


def _file_text(keys: tuple[MasterKey, ...]) -> bytes:
    head = "# sage-actors: the key of saved state. Whoever reads it reads the state. The first line seals.\n"
    return (head + "".join(f"{format_key(key.secret)}\n" for key in keys)).encode("ascii")


def _parse(text: str, where: str) -> tuple[MasterKey, ...]:
    keys = tuple(MasterKey(_parse_one(part.strip(), where)) for part in text.split(","))
    return tuple(dict.fromkeys(keys))  # the same key twice is one key


def _parse_one(text: str, where: str) -> bytes:
    """The 32 bytes. No error repeats any part of the text: it may be all but right."""
    if not text:
        raise KeyUnusableError(f"{where}: empty; a key is {_PREFIX} and the base64 of 32 random bytes")
    if not text.startswith(_PREFIX):
        raise KeyUnusableError(f"{where}: a key starts with {_PREFIX}; passphrases are not accepted")
    body = text[len(_PREFIX) :].translate(str.maketrans("-_", "+/"))
    if not _BODY.fullmatch(body):
        raise KeyUnusableError(f"{where}: after {_PREFIX} there must be the base64 of exactly 32 bytes")
    try:
        secret = base64.b64decode(body.rstrip("=") + "=", validate=True)
    except binascii.Error as cause:
        raise KeyUnusableError(f"{where}: not base64") from cause
    if len(set(secret)) < 8:  # 32 random bytes have fewer than 8 distinct ones once in 10^40
        raise KeyUnusableError(
            f"{where}: these bytes are not random; make a key with `sage-actors keys create`"
        )
    return secret


def _ask_keychain() -> str | None:
    """What the keychain holds for us; None where there is no keychain that the system protects."""
    if importlib.util.find_spec("keyring") is None:
        return None
    try:
        import keyring  # 100 ms and more: only where no key is in the environment

        backend = keyring.get_keyring()
        parts = getattr(backend, "backends", None) or [backend]  # the chainer asks several in turn
        if not {type(part).__module__ for part in parts} <= _SAFE_BACKENDS:
            return None
        return backend.get_password(KEYCHAIN_SERVICE, KEYCHAIN_USER)
    except Exception as cause:  # backends raise what their bus or library raises
        raise _KeychainClosedError(type(cause).__name__) from cause
