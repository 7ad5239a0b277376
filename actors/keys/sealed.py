"""A whole file of this user's, sealed under the master key: nobody else reads or changes it.

    file       = magic(8) | key id(8) | salt(32) | AES-256-GCM(what it holds, associated data: all before)
    file's key = HKDF-SHA256(master key, salt, what it is for)

Each file has a key of its own, so that one nonce is never used twice under a key.
"""

from __future__ import annotations

import os
from typing import Any, Final

from sage_actors.actors.keys.ring import KeyRing, MasterKey

__all__ = ["key_id_of", "open_sealed", "seal"]

_MAGIC_BYTES: Final = 8
_SALT_BYTES: Final = 32
_HEAD_BYTES: Final = _MAGIC_BYTES + 8 + _SALT_BYTES


def seal(keys: KeyRing, plain: bytes, *, magic: bytes, info: bytes) -> bytes:
    """The file that holds `plain`. magic: 8 bytes. info: what it is for, and which one of its kind."""
    head = magic + keys.primary.id + os.urandom(_SALT_BYTES)
    return head + bytes(_cipher(keys.primary, head, info).encrypt(bytes(12), plain, head))


def open_sealed(keys: KeyRing, data: bytes, *, magic: bytes, info: bytes) -> bytes | None:
    """What `seal` was given; None if it is another file, another key's, or was altered."""
    from cryptography.exceptions import InvalidTag

    head = data[:_HEAD_BYTES]
    master = keys.get(key_id_of(data))
    if len(head) < _HEAD_BYTES or not head.startswith(magic) or master is None:
        return None
    try:
        return bytes(_cipher(master, head, info).decrypt(bytes(12), data[_HEAD_BYTES:], head))
    except (InvalidTag, ValueError):
        return None


def key_id_of(data: bytes) -> bytes:
    """The id of the key that sealed a file."""
    return data[_MAGIC_BYTES : _MAGIC_BYTES + 8]


def _cipher(master: MasterKey, head: bytes, info: bytes) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(hashes.SHA256(), 32, head[-_SALT_BYTES:], info).derive(master.secret))
