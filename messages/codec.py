"""Values to bytes and back: msgpack, length-prefixed frames, and errors that name the place.

A frame on a socket:

    +----------------+--------------------------+
    | u32 big-endian | msgpack                  |
    | length         | [kind, payload]          |
    +----------------+--------------------------+

A value that travels inside a message (arguments, a result) is packed on its own and carried as `bin`, so
that nobody between producer and consumer decodes it. Inside arguments, extension type 1 holds the packed
bytes of another node's whole result: it is decoded by the consumer only. Extension type 2 stands in the journal
where a result was secret and was not written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgpack

from sage_actors.messages.errors import ProtocolError, ResultError

__all__ = [
    "MAX_FRAME_BYTES",
    "MAX_RESULT_BYTES",
    "WITHHELD",
    "FrameReader",
    "ValueCheck",
    "embed",
    "frame",
    "pack",
    "reveal",
    "unpack",
]

MAX_RESULT_BYTES = 60 * 1024 * 1024
MAX_FRAME_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_MOST_LEVELS = 200
_SHOWN_LEVELS, _SHOWN_CHARS = 20, 80
_PACKED = 1  # msgpack extension type: the packed bytes of another value
_SECRET = 2
_GIVEN = ("the arguments", "the inputs")  # of `what`: values that no operation made
# In the place of a secret result; never its value.
# What a value can be made into before it is handed on, by an attribute that its type has.
_WAYS = (
    ("model_dump", "use its model_dump(mode='json')"),
    ("__dataclass_fields__", "use dataclasses.asdict"),
    ("isoformat", "use its isoformat()"),
    ("total_seconds", "use its total_seconds()"),
    ("tolist", "use its tolist()"),
    ("to_dict", "use its to_dict()"),
    ("__fspath__", "use str(path)"),
    ("_value_", "use its value"),
    ("isdisjoint", "use sorted(...), a list"),
    ("cr_await", "await it"),
    ("__next__", "use list(...)"),
)
WITHHELD = bytes(msgpack.packb(msgpack.ExtType(_SECRET, b"")))

# Nil, a truth value, a small number, or something empty.
_ONE_BYTE = frozenset(
    bytes((each,)) for each in (*range(0x81), 0x90, 0xA0, 0xC0, 0xC2, 0xC3, *range(0xE0, 256))
)


def embed(packed: bytes) -> msgpack.ExtType:
    """The packed bytes of a value, to be placed whole inside another value without decoding it."""
    return msgpack.ExtType(_PACKED, packed)


def pack(value: object, *, what: str = "the value") -> bytes:
    """`value` as msgpack.

    Raises:
        ResultError: something inside cannot be carried; the text names its type and its path in `value`.
    """
    try:
        return bytes(msgpack.packb(value, default=_default, strict_types=True))
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # tuples and derived types are carried, but a tuple may be a key, which nobody could unpack
    try:
        packed = bytes(msgpack.packb(value, default=_default))
        msgpack.unpackb(packed, ext_hook=msgpack.ExtType, strict_map_key=False)
        return packed
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        cause = error
    path, reason = _find_culprit(value, is_result=not what.startswith(_GIVEN))
    raise ResultError(f"{what} cannot be stored: {path} is {reason or cause}") from cause


def unpack(data: bytes | memoryview) -> Any:
    """The value that `pack` made; other values' packed bytes inside are opened as well.

    Raises:
        ProtocolError: `data` is not one well-formed msgpack value.
    """
    try:
        return msgpack.unpackb(data, ext_hook=_ext_hook, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as cause:
        raise ProtocolError(f"malformed msgpack: {cause!r}") from cause


def reveal(data: bytes) -> Any:
    """The value for who looks at many: in the place of one that cannot be read, a text that says so."""
    try:
        return unpack(data)
    except ProtocolError as cause:
        return f"[cannot be read: {cause}]"


class ValueCheck:
    """Looks whether bytes are one packed value, without making it: such bytes can stand inside of others."""

    def __init__(self) -> None:
        self._reader = msgpack.Unpacker(max_buffer_size=0)
        self._read = 0

    def __call__(self, data: bytes) -> None:
        """Raises ProtocolError where they are not. What texts and keys hold is not looked at."""
        if data in _ONE_BYTE:
            return
        reader = self._reader
        try:
            reader.feed(data)
            reader.skip()
            self._read += len(data)
            whole = reader.tell() == self._read
        except (ValueError, msgpack.UnpackException):
            whole = False
        if not whole:
            self.__init__()  # type: ignore[misc]
            raise ProtocolError("a packed value is not one whole value")


def frame(kind: int, payload: object) -> bytes:
    """One frame, ready for a socket."""
    body = msgpack.packb((kind, payload), default=_default)
    return _LENGTH.pack(len(body)) + bytes(body)


class FrameReader:
    """Cuts a stream of bytes into frames; holds what is still incomplete."""

    def __init__(self, *, limit: int = MAX_FRAME_BYTES + (1 << 20)) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """The frames that `data` completes, as (kind, payload); bytes inside stay packed.

        Raises:
            ProtocolError: a length beyond the limit, or a body that is no [kind, payload].
        """
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length > self._limit:
                    raise ProtocolError(f"a frame of {length} bytes; the limit is {self._limit}")
                if end - start - 4 < length:
                    break
                body = bytes(memoryview(buffer)[start + 4 : start + 4 + length])
                start += 4 + length
                yield _open(body)
        finally:
            if start:
                del buffer[:start]


def _open(body: bytes) -> tuple[int, Any]:
    try:
        message = msgpack.unpackb(body, ext_hook=_no_extension, timestamp=1, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as cause:
        raise ProtocolError(f"malformed frame: {cause!r}") from cause
    if type(message) is not list or len(message) != 2 or type(message[0]) is not int:
        raise ProtocolError("a frame must be [kind, payload]")
    return message[0], message[1]


def _default(value: object) -> object:
    raise TypeError(_kind(value))


def _ext_hook(code: int, data: bytes) -> Any:
    if code == _PACKED:
        return unpack(data)
    if code == _SECRET:
        return "[secret output]"
    raise ValueError(f"unknown extension type {code}")


def _no_extension(code: int, _: bytes) -> str:
    """In a frame nothing of ours has one; a worker may send anything, and events and records hold plain values."""
    return f"[extension {code}]"


def _is_key(key: object) -> bool:
    return key is None or isinstance(key, (str, int, float, bytes))


def _find_culprit(value: object, path: tuple[object, ...] = (), *, is_result: bool = True) -> tuple[str, str]:
    """Where in `value` the first thing is that msgpack cannot carry, and what it is."""
    if len(path) > _MOST_LEVELS:
        return _place(path), f"nested more than {_MOST_LEVELS} levels deep (does it contain itself?)"
    if isinstance(value, dict):
        for key, item in value.items():
            if not _is_key(key):
                reason = f"of type {_kind(key)}; a key is a str, int, float, bool, bytes or None"
                return f"the key {_short(key)} of {_place(path)}", reason
            if reason := _find_culprit(key, path, is_result=is_result)[1]:
                return f"the key {_short(key)} of {_place(path)}", reason
            found = _find_culprit(item, (*path, key), is_result=is_result)
            if found[1]:
                return found
        return "", ""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            found = _find_culprit(item, (*path, index), is_result=is_result)
            if found[1]:
                return found
        return "", ""
    try:
        msgpack.packb(value)
    except (TypeError, ValueError, OverflowError) as cause:
        return _place(path), _why(value, cause, is_result=is_result)
    return "", ""


def _why(value: object, cause: Exception, *, is_result: bool) -> str:
    if hasattr(value, "get_secret_value"):
        way = ", or declare `secret_outputs: true` and return value.get_secret_value()" if is_result else ""
        kind = _kind(value)
        return f"a secret ({kind}), which is never saved: pass `${{env.NAME}}` to the operation that needs it{way}"
    if isinstance(value, int):
        return "an integer of more than 64 bits (use a string)"
    if isinstance(value, str):
        return f"a string that is not valid Unicode ({cause})"
    hint = next((f" ({way})" for name, way in _WAYS if hasattr(value, name)), "")
    return f"of type {_kind(value)}; msgpack carries None, bool, int, float, str, bytes, list and dict{hint}"


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _place(path: tuple[object, ...]) -> str:
    """`value['a'][0]`; of a long path the beginning."""
    shown = "".join(f"[{_short(each)}]" for each in path[:_SHOWN_LEVELS])
    return f"value{shown}{'...' if len(path) > _SHOWN_LEVELS else ''}"


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
