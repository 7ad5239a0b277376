"""One record of the audit log, as a line of text that proves where it stands and who wrote it.

    {"actor":"supervisor","event":"states", ... ,"prev":"<mac of the line before>","v":1,"mac":"<64 hex>"}

The text before `,"mac"` is canonical JSON: sorted keys, no spaces, ASCII. mac = HMAC-SHA256(key, that text and a
closing brace), key = HKDF-SHA256(master key, "sage-actors/v1/audit"). `key` names the master key, so that a log goes
on under the next one. An edited, removed, added or moved line breaks its own mac or the `prev` of the one behind it;
cutting lines off the end shows against a head (seq and mac of a line) that stands elsewhere: in a run's journal, or
in what `sage-actors audit head` printed.

Every line has:

    v      1                             event   what happened: see `supervisor/audit_events.py`
    seq    0, 1, 2, ... over all files   actor   who did it: "supervisor", "command line", ...
    ts     Unix time, microseconds       user    the operating system's name for whose process it was
    run    run id, or null               pid     that process
    key    id of the master key          prev    mac of the line before; 64 zeros in the first

It never holds a result, an argument, an output or the text of an error: ids, names of states, counts and kinds.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sage_actors.actors.keys.provider import KeyRing, MasterKey

__all__ = ["VERSION", "ZERO", "AuditKeys", "Head", "canonical", "parse_head", "parse_line", "seal_line"]

VERSION = 1
ZERO = "0" * 64
_INFO = b"sage-actors/v1/audit\0"
_MAC_KEY = b',"mac":"'
_MAC_END = b'"}'
# Made once: `json.dumps` makes one at every call that does not take its defaults.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_MAC_BYTES = len(_MAC_KEY) + 64 + len(_MAC_END)


class Head(NamedTuple):
    """The last record of a log: its number, and its mac in hex. As text `41:9f3c...`."""

    seq: int
    mac: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.mac}"


class AuditKeys:
    """The keys of the lines, each derived from its master key once."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self.primary_id = ring.primary.id.hex()
        self._derived: dict[str, bytes | None] = {}

    def get(self, key_id: str) -> bytes | None:
        """The key for lines of the master key `key_id` (hex); None if the ring does not have it."""
        if key_id not in self._derived:
            self._derived[key_id] = self._derive(key_id)
        return self._derived[key_id]

    def _derive(self, key_id: str) -> bytes | None:
        master: MasterKey | None = next((each for each in self.ring.keys if each.id.hex() == key_id), None)
        if master is None:
            return None
        return HKDF(hashes.SHA256(), 32, None, _INFO).derive(master.secret)


def canonical(fields: Mapping[str, Any]) -> bytes:
    """The one text of `fields`.

    >>> canonical({"b": [1, None], "a": "x"})
    b'{"a":"x","b":[1,null]}'
    """
    return _ENCODER.encode(fields).encode("ascii")


def seal_line(fields: Mapping[str, Any], key: bytes) -> tuple[bytes, str]:
    """The line of `fields`, with its newline, and its mac."""
    body = canonical(fields)
    mac = hmac.digest(key, body, "sha256").hex()
    return b"".join((body[:-1], _MAC_KEY, mac.encode("ascii"), _MAC_END, b"\n")), mac


def parse_line(line: bytes, keys: AuditKeys) -> tuple[dict[str, Any], str]:
    """The fields of a line (without its newline) and its mac, once they are known to be genuine.

    Raises:
        ValueError: why it is not; the text is a reason to go into an error.
        LookupError: it is sealed under a key that is not among `keys`; the argument is the key's id.
    """
    body, mac = line[:-_MAC_BYTES] + b"}", line[-_MAC_BYTES + len(_MAC_KEY) : -len(_MAC_END)]
    if line[-_MAC_BYTES:] != _MAC_KEY + mac + _MAC_END or len(line) <= _MAC_BYTES:
        raise ValueError("it is no record")
    try:
        fields = json.loads(body)
        is_canonical = isinstance(fields, dict) and canonical(fields) == body
    except (ValueError, RecursionError):
        raise ValueError("it is no record") from None
    if not is_canonical:  # spaces, a key twice, another order: the same fields to a reader, another text
        raise ValueError("it is not in canonical form")
    if fields.get("v") != VERSION:
        raise ValueError("its version is not known: written by a later sage-actors, or altered")
    key = keys.get(str(fields.get("key")))
    if key is None:
        raise LookupError(str(fields.get("key")))
    if not hmac.compare_digest(hmac.digest(key, body, "sha256").hex().encode(), mac):
        raise ValueError("its mac does not fit: it was altered")
    return fields, mac.decode("ascii")


def parse_head(text: str) -> Head:
    """What `str(head)` made.

    Raises:
        ValueError: it is no head.

    >>> parse_head("7:" + "ab" * 32).seq
    7
    """
    seq, _, mac = text.strip().partition(":")
    if not seq.isascii() or not seq.isdigit() or len(mac) != 64 or not set(mac) <= set("0123456789abcdef"):
        raise ValueError("a head is a number, a colon and 64 hexadecimal digits, as `audit head` prints it")
    return Head(int(seq), mac)
