"""The server name in a ClientHello, as real TLS clients write it, in pieces, and as attackers do."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.actors.egress.tls import MAX_HELLO_BYTES, ClientHello, NotTls, read_hello

pytestmark = pytest.mark.requirement("ORCH-023")


def hello(name: str | None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = hello("good.test")
BODY = HELLO[9:]


def record(fragment: bytes) -> bytes:
    return b"\x16\x03\x01" + len(fragment).to_bytes(2, "big") + fragment


def message(body: bytes) -> bytes:
    return b"\x01" + len(body).to_bytes(3, "big") + body


def with_extensions(extensions: bytes) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    return record(message(body + len(extensions).to_bytes(2, "big") + extensions))


def server_name(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + len(each).to_bytes(2, "big") + each for each in names)
    inner = len(entries).to_bytes(2, "big") + entries
    return b"\x00\x00" + len(inner).to_bytes(2, "big") + inner


def test_the_name_is_found() -> None:
    assert read_hello(HELLO) == ClientHello("good.test")
    assert read_hello(hello(None)) == ClientHello(None)
    assert read_hello(with_extensions(server_name(b"a.test"))) == ClientHello("a.test")


def test_every_shorter_piece_is_incomplete() -> None:
    assert all(read_hello(HELLO[:size]) is None for size in range(len(HELLO)))


@pytest.mark.parametrize("size", [9, 40, 200])
def test_it_may_be_spread_over_records(size: int) -> None:
    whole = HELLO[5:]
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert read_hello(b"".join(map(record, pieces))) == ClientHello("good.test")
    assert read_hello(b"".join(map(record, pieces[:-1]))) is None


def test_what_follows_it_does_not_matter() -> None:
    assert read_hello(HELLO + b"anything") == ClientHello("good.test")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",  # SSL 2
        b"\x17\x03\x03\x00\x01\x00",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        record(b"\x02\x00\x00\x00"),
        record(b"\x01\xff\xff\xff"),
        record(message(b"")),
        record(message(BODY[:-1])),
        with_extensions(server_name(b"a.test") + server_name(b"b.test")),
        with_extensions(server_name(b"a.test", b"b.test")),
        with_extensions(server_name(b"a.test", kind=7)),
        with_extensions(b"\x00\x00\x00\xff"),
        b"".join(record(b"\x01"[:1]) for _ in range(100)),
    ],
)
def test_what_is_no_clienthello_is_refused(data: bytes) -> None:
    with pytest.raises(NotTls):
        read_hello(data)


def test_it_has_a_greatest_length() -> None:
    padding = b"\x00\x15" + (16_000).to_bytes(2, "big") + bytes(16_000)
    long = with_extensions(server_name(b"a.test") + padding)
    assert read_hello(long) == ClientHello("a.test")
    with pytest.raises(NotTls, match="too long"):
        read_hello(record(b"\x01" + MAX_HELLO_BYTES.to_bytes(3, "big")))


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_be_refused_or_awaited(data: bytes) -> None:
    for each in (data, record(message(data)), with_extensions(data[:200])):
        try:
            found = read_hello(each)
        except NotTls:
            continue
        assert found is None or isinstance(found, ClientHello)


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_flipped_byte_is_no_crash(position: int, value: int) -> None:
    data = HELLO[:position] + bytes([value]) + HELLO[position + 1 :]
    try:
        read_hello(data)
    except NotTls:
        pass
