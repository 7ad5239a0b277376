"""The bytes of a journal segment: its header, its frames, and the keys that seal them.

    journal-NNNNNN.sage

    +------------------------------------------------------------------ header, 112 bytes, big-endian
    | magic 8 | version u16 | algorithm u16 | key id 8 | run uuid 16 | segment u32
    | salt 32 | tail tag of the segment before 16 | its valid bytes u64 | key commitment 16
    +------------------------------------------------------------------ frame 0
    | length u32 | kind u8 | check 8 | ciphertext (length - 16) | tag 16
    +------------------------------------------------------------------ frame 1
    | ...

    okm        = HKDF-SHA256(master key, salt, "sage-actors/v1/journal" | header before the commitment)
    key        = okm[0:32]   AES-256-GCM
    commitment = okm[32:48]  stands in the header: fails for a wrong key and for an altered header alike,
                             which the key id tells apart
    check key  = okm[48:80]
    binding    = kind u8 | number u64 | length u32 | the 16 bytes before the frame
    check      = BLAKE2b-64(check key, binding): a genuine length tells a torn frame from an altered one
    frame      = AES-256-GCM(key, nonce = number, associated data = binding)

The 16 bytes before a frame are the tag of the frame before, or the commitment for frame 0: frames are
chained, and each can still be opened alone. A key is used by one writer for one segment, so a nonce never
repeats.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.messages.errors import StateCorruptedError, WrongKeyError

__all__ = [
    "FRAME_HEAD_BYTES",
    "HEADER_BYTES",
    "MAX_PLAINTEXT_BYTES",
    "NO_TAG",
    "RECORDS",
    "TAG_BYTES",
    "Header",
    "Location",
    "SegmentCipher",
    "Tail",
    "damaged",
    "open_header",
    "seal_header",
]

MAX_PLAINTEXT_BYTES = 64 * 1024 * 1024 - 64
TAG_BYTES = 16
NO_TAG = bytes(TAG_BYTES)
RECORDS = 1  # the one kind of frame there is: a msgpack list of records

_MAGIC = b"SAGEJRN\n"
_VERSION = 1
_AES_256_GCM = 1
_FIELDS = struct.Struct(">8sHH8s16sI32s16sQ")
_FRAME_HEAD = struct.Struct(">IB8s")
_BINDING = struct.Struct(">BQI")
_NONCE = struct.Struct(">4xQ")
_INFO = b"sage-actors/v1/journal\0"

HEADER_BYTES = _FIELDS.size + TAG_BYTES
FRAME_HEAD_BYTES = _FRAME_HEAD.size


@dataclass(frozen=True, slots=True)
class Location:
    """Where a frame is: its segment, its number in it (0-based), and the byte where it starts."""

    segment: int
    number: int
    offset: int


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a segment ends: the tag that the next one continues, and how many of its bytes are valid."""

    segment: int
    tag: bytes
    valid_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What the head of a segment says; `previous` is None in the first one."""

    key_id: bytes
    run_uuid: bytes
    segment: int
    salt: bytes
    previous: Tail | None
    commitment: bytes


class SegmentCipher:
    """Seals and opens the frames of one segment. Holds keys, never state: who calls counts."""

    __slots__ = ("_aead", "_check", "commitment")

    def __init__(self, master: MasterKey, fields: bytes, salt: bytes) -> None:
        okm = HKDF(hashes.SHA256(), 80, salt, _INFO + fields).derive(master.secret)
        self._aead = AESGCM(okm[:32])
        self.commitment = okm[32:48]
        self._check = blake2b(key=okm[48:], digest_size=8)

    def seal(self, number: int, previous_tag: bytes, plaintext: bytes) -> bytes:
        """Frame `number`, whole. Must be called once for a number."""
        length = len(plaintext) + TAG_BYTES
        binding = _BINDING.pack(RECORDS, number, length) + previous_tag
        head = _FRAME_HEAD.pack(length, RECORDS, self._check_of(binding))
        return head + self._aead.encrypt(_NONCE.pack(number), plaintext, binding)

    def genuine_head(self, head: bytes, number: int, previous_tag: bytes) -> tuple[int, bytes] | None:
        """(length of what follows this frame head, binding for `open`); None if the head is not genuine."""
        length, kind, check = _FRAME_HEAD.unpack(head)
        binding = _BINDING.pack(kind, number, length) + previous_tag
        if kind != RECORDS or not compare_digest(check, self._check_of(binding)):
            return None
        return length, binding

    def open(self, body: bytes, number: int, binding: bytes) -> bytes | None:
        """The plaintext of a frame (ciphertext and tag in `body`); None if it is not authentic."""
        try:
            return self._aead.decrypt(_NONCE.pack(number), body, binding)
        except InvalidTag:
            return None

    def _check_of(self, binding: bytes) -> bytes:
        hasher = self._check.copy()  # half the time of keying it anew
        hasher.update(binding)
        return hasher.digest()


def seal_header(
    master: MasterKey, *, run_uuid: bytes, segment: int, salt: bytes, previous: Tail | None
) -> tuple[bytes, SegmentCipher]:
    """The header of a new segment, and the cipher for its frames."""
    tag, valid = (previous.tag, previous.valid_bytes) if previous else (NO_TAG, 0)
    fields = _FIELDS.pack(_MAGIC, _VERSION, _AES_256_GCM, master.id, run_uuid, segment, salt, tag, valid)
    cipher = SegmentCipher(master, fields, salt)
    return fields + cipher.commitment, cipher


def open_header(data: bytes, keys: KeyRing, *, name: str) -> tuple[Header, SegmentCipher]:
    """What the first bytes of the file `name` say, once they are known to be genuine.

    Raises:
        WrongKeyError: it is sealed under a key that the ring does not have.
        StateCorruptedError: the header is damaged.
    """
    if len(data) < HEADER_BYTES:
        raise damaged(name, len(data), "the file ends within its header")
    fields, commitment = data[: _FIELDS.size], data[_FIELDS.size : HEADER_BYTES]
    magic, version, algorithm, key_id, run_uuid, segment, salt, tag, valid = _FIELDS.unpack(fields)
    if magic != _MAGIC:
        raise damaged(name, 0, "this is no journal segment")
    if (version, algorithm) != (_VERSION, _AES_256_GCM):
        reason = (
            f"format {version}.{algorithm} is not known: made by a later version of sage-actors, or damaged"
        )
        raise damaged(name, 8, reason)
    master = keys.get(key_id)
    if master is None:
        raise _unknown_key(fields, commitment, key_id, salt, keys, name)
    cipher = SegmentCipher(master, fields, salt)
    if not compare_digest(cipher.commitment, commitment):
        raise damaged(name, 0, "the header was altered")
    previous = Tail(segment - 1, tag, valid) if segment > 1 else None
    return Header(key_id, run_uuid, segment, salt, previous, commitment), cipher


def _unknown_key(
    fields: bytes, commitment: bytes, key_id: bytes, salt: bytes, keys: KeyRing, name: str
) -> StateCorruptedError | WrongKeyError:
    """A key id that the ring does not know: another key's, or one of ours with a flipped bit?"""
    for master in keys.keys:
        repaired = fields[:12] + master.id + fields[20:]
        if compare_digest(SegmentCipher(master, repaired, salt).commitment, commitment):
            return damaged(name, 12, "the key id was altered")
    return WrongKeyError(
        f"{name} is sealed under the key {key_id.hex()}, which is not among the keys from the {keys.source}; "
        "bring that key back (several keys may be given, separated by commas)"
    )


def damaged(name: str | Path, offset: int, reason: str) -> StateCorruptedError:
    """The error for damage at byte `offset` of the file `name`."""
    return StateCorruptedError(
        f"{name} is damaged at byte {offset}: {reason}; --repair continues from what is valid before it"
    )
