"""The master keys that seal state: from the environment, the OS keychain, or a private file.

The first source that has one is used. A source that has a bad one is an error, never a reason to look
further: a run that was silently sealed under another key is a run that nobody can resume.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sage_actors.actors.keys.key_file import (
    create_key_file,
    default_key_path,
    drop_from_key_file,
    load_key_file,
    rotate_key_file,
)
from sage_actors.actors.keys.keychain import KeychainClosedError, ask_keychain, tell_keychain
from sage_actors.actors.keys.ring import (
    KeyRing,
    MasterKey,
    format_key,
    format_keys,
    new_key,
    read_keys,
    ring_of,
)
from sage_actors.actors.keys.variable import KEY_VARIABLE, given_keys
from sage_actors.actors.undumpable import make_undumpable
from sage_actors.messages.errors import KeyUnusableError

__all__ = [
    "KEY_VARIABLE",
    "KeyRing",
    "MasterKey",
    "create_key_file",
    "create_keychain_key",
    "default_key_path",
    "drop_key",
    "format_key",
    "format_keys",
    "load_keys",
    "rotate_key_file",
    "rotate_keys",
]


def load_keys(
    *, environ: Mapping[str, str] = os.environ, path: Path | None = None, create: bool = True
) -> KeyRing:
    """The keys of the first source that has any: $SAGE_STATE_KEY, the OS keychain, the key file.

    From then on nobody else of this user can look into this process, see `undumpable`.

    Args:
        path: the key file; `default_key_path()` if None.
        create: make the key file when no source has a key.

    Raises:
        KeyUnusableError: a source holds something that is no usable key, the key file is not private, the
            keychain is locked and there is no key file, or there is no key at all and `create` is false.
    """
    make_undumpable(environ)
    given = None if (text := given_keys(environ)) is None else read_keys(text)
    if given is None:
        path = path or default_key_path(environ)
    del environ, text  # see `read_keys`
    if given is not None:
        return ring_of(given, f"${KEY_VARIABLE}", "environment")
    assert path is not None
    try:
        stored = ask_keychain()
    except KeychainClosedError as cause:
        if not os.path.lexists(path):  # a new file would seal runs that the keychain's key cannot open later
            raise KeyUnusableError(
                f"the keychain does not answer ({cause}); unlock it, or set ${KEY_VARIABLE}"
            ) from cause
        stored = None
    if stored is not None:
        found = read_keys(stored)
        del stored
        return ring_of(found, "the keychain", "keychain")
    return load_key_file(path, create=create)


def create_keychain_key() -> KeyRing:
    """Put a new key into the keychain, which must not hold one.

    Raises:
        KeyUnusableError: it holds one, there is no keychain that the system protects, or it refused.
    """
    try:
        if ask_keychain() is not None:
            raise KeyUnusableError(
                "the keychain holds a key already; `sage-actors keys rotate` adds a new one"
            )
    except KeychainClosedError as cause:
        raise KeyUnusableError(f"the keychain does not answer ({cause}); unlock it") from cause
    ring = KeyRing((new_key(),), "keychain")
    tell_keychain(format_keys(ring.keys))
    return ring


def rotate_keys(ring: KeyRing, path: Path) -> KeyRing:
    """A new key before those of `ring`, kept where they are: it seals what is new, and the others open theirs.

    The environment cannot be changed from here: whoever calls has to say what it must be set to.

    Raises:
        KeyUnusableError: the key file `path` or the keychain refused; it is unchanged.
    """
    if ring.source == "file":
        return rotate_key_file(path)
    rotated = KeyRing((new_key(), *ring.keys), ring.source)
    if ring.source == "keychain":
        tell_keychain(format_keys(rotated.keys))
    return rotated


def drop_key(ring: KeyRing, key_id: bytes, path: Path) -> KeyRing:
    """Forget a key for good, where it is kept; see `rotate_keys` for the environment. The last one stays.

    Raises:
        KeyUnusableError: as `rotate_keys`; or it would be the last one.
    """
    if ring.source == "file":
        return drop_from_key_file(path, key_id)
    left = ring.without(key_id)
    if not left.keys:
        raise KeyUnusableError(f"no key would be left in the {ring.source}; rotate first")
    if ring.source == "keychain":
        tell_keychain(format_keys(left.keys))
    return left
