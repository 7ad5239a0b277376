"""A master key, the keys that are there, and the text that a key is written as."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sage_actors.messages.errors import KeyUnusableError

__all__ = ["KeyRing", "MasterKey", "format_key", "format_keys", "new_key", "read_keys", "ring_of"]

_PREFIX = "sak1-"
_BODY = re.compile(r"[A-Za-z0-9+/]{43}=?")


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

    def without(self, key_id: bytes) -> KeyRing:
        """The others."""
        return KeyRing(tuple(key for key in self.keys if key.id != key_id), self.source)


def new_key() -> MasterKey:
    """From the system's random numbers."""
    return MasterKey(os.urandom(32))


def format_key(secret: bytes) -> str:
    """The text form of a key: `sak1-` and the URL-safe base64 of its 32 bytes.

    >>> format_key(bytes(range(32)))
    'sak1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8'
    """
    return _PREFIX + base64.urlsafe_b64encode(secret).decode("ascii").rstrip("=")


def format_keys(keys: Iterable[MasterKey]) -> str:
    """Several keys as one text: what $SAGE_STATE_KEY and a keychain hold."""
    return ",".join(format_key(key.secret) for key in keys)


def read_keys(text: str) -> tuple[MasterKey, ...] | str:
    """The keys of a text, separated by commas, the first of which seals; or why it is none.

    It does not raise: a traceback may be printed with the local variables of each frame, and this text is all but
    a key. Callers forget it before they hand the answer to `ring_of`. No reason repeats any part of it.
    """
    keys: list[MasterKey] = []
    for part in text.split(","):
        secret = _read_one(part.strip())
        if isinstance(secret, str):
            return secret
        keys.append(MasterKey(secret))
    return tuple(dict.fromkeys(keys))  # the same key twice is one key


def ring_of(found: tuple[MasterKey, ...] | str, where: str, source: str) -> KeyRing:
    """The ring of what `read_keys` gave.

    Raises:
        KeyUnusableError: it gave a reason; `where` the text stood is said with it.
    """
    if isinstance(found, str):
        raise KeyUnusableError(f"{where}: {found}")
    return KeyRing(found, source)


def _read_one(text: str) -> bytes | str:
    if not text:
        return f"empty; a key is {_PREFIX} and the base64 of 32 random bytes"
    if not text.startswith(_PREFIX):
        return f"a key starts with {_PREFIX}; passphrases are not accepted"
    body = text[len(_PREFIX) :].translate(str.maketrans("-_", "+/"))
    if not _BODY.fullmatch(body):
        return f"after {_PREFIX} there must be the base64 of exactly 32 bytes"
    try:
        secret = base64.b64decode(body.rstrip("=") + "=", validate=True)
    except binascii.Error:
        return "not base64"
    if len(set(secret)) < 8:  # 32 random bytes have fewer than 8 distinct ones once in 10^40
        return "these bytes are not random; make a key with `sage-actors keys create`"
    return secret
