"""The egress proxy on real sockets: what it lets through, what it denies, and what it survives."""

from __future__ import annotations

import gc
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from egress_harness import (
    PATIENCE_S,
    PUBLIC,
    Origin,
    World,
    authorization,
    certificate,
    client_context,
    read_all,
    rules,
    server_context,
    status,
    world,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool_harness import wait_until

from sage_actors.actors.egress.connection import Timeouts
from sage_actors.actors.egress.gate import Permit
from sage_actors.actors.egress.proxy import Decision, EgressProxy
from sage_actors.testing import FakeClock

pytestmark = pytest.mark.requirement("ORCH-023")


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"), "good.test", "other.test", "a.wild.test")


@pytest.fixture
def secure(net: World, pem: Path) -> Iterator[Origin]:
    """https://good.test, https://other.test, https://a.wild.test: at a public address."""
    with Origin(server_context(pem)) as found:
        net.network.names |= {
            name: [PUBLIC] for name in ("good.test", "other.test", "a.wild.test", "wild.test")
        }
        net.network.routes[PUBLIC, 443] = found.port
        yield found


def local(origin: Origin) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": origin.port, "private": True}


def get(port: int, path: str = "/", host: str = "127.0.0.1") -> str:
    return f"GET http://{host}:{port}{path} HTTP/1.1\r\nHost: ignored.test\r\n"


# What passes


def test_tls_passes_end_to_end_to_a_host_of_the_list(net: World, secure: Origin, pem: Path) -> None:
    token = net.grant("good.test:443", "*.wild.test:443")
    with httpx.Client(proxy=net.url(token), verify=client_context(pem), trust_env=False) as client:
        assert client.post("https://good.test/a", content=b"x" * 300_000).text == "OK " + "x" * 300_000
        assert client.get("https://a.wild.test/b").status_code == 200
    assert [path for _, path, _, _ in secure.seen] == ["/a", "/b"]
    assert net.network.dialled == [(PUBLIC, 443)] * 2
    assert "proxy-authorization" not in secure.seen[0][2]
    end = net.wait_for(lambda each: each.decision == "end" and each.host == "good.test")
    assert end.sent_bytes > 300_000
    assert end.received_bytes > 300_000


def test_plain_http_passes_to_a_host_of_this_network(net: World, origin: Origin) -> None:
    token = net.grant(local(origin))
    url = f"http://127.0.0.1:{origin.port}"
    with httpx.Client(proxy=net.url(token), trust_env=False) as client:
        assert client.get(f"{url}/a?b=c").text == "OK "
        assert client.post(f"{url}/p", content=b"body").text == "OK body"
        assert client.post(f"{url}/c", content=iter([b"chu", b"nked"])).text == "OK chunked"
    assert [path for _, path, _, _ in origin.seen] == ["/a?b=c", "/p", "/c"]


def test_the_host_gets_the_name_that_was_checked_and_no_header_meant_for_the_proxy(
    net: World, origin: Origin
) -> None:
    token = net.grant(local(origin))
    head = get(origin.port) + "Connection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nUpgrade: websocket\r\n"
    assert status(net.ask(token, head)) == 200
    headers = origin.seen[0][2]
    assert headers["host"] == f"127.0.0.1:{origin.port}"
    assert headers["x-end"] == "2"
    assert not headers.keys() & {"x-hop", "proxy-authorization", "upgrade"}


def test_a_host_cannot_speak_as_the_proxy(net: World, origin: Origin) -> None:
    origin.answers["/"] = (403, {"X-Sage-Egress": "denied"}, b"mine")
    answer = net.ask(net.grant(local(origin)), get(origin.port))
    assert status(answer) == 403
    assert b"x-sage-egress" not in answer.lower()
    assert answer.endswith(b"mine")


def test_a_second_request_on_the_connection_is_not_served(net: World, origin: Origin) -> None:
    head = get(origin.port, "/first")
    token = net.grant(local(origin))
    second = (get(origin.port, "/second")).encode() + authorization(token) + b"\r\n"
    answer = net.ask(token, head, body=second)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer.lower()
    assert [path for _, path, _, _ in origin.seen] == ["/first"]


def test_either_side_may_end_first_and_the_other_still_speaks(net: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        token = net.grant({"host": "127.0.0.1", "port": port, "private": True})
        with net.tunnel(token, f"127.0.0.1:{port}") as client:
            host, _ = listener.accept()
            with host:
                host.sendall(b"banner")  # a host may speak first
                assert client.recv(100) == b"banner"
                client.sendall(b"request")
                client.shutdown(socket.SHUT_WR)
                assert read_all(host) == b"request"
                host.sendall(b"answer")
            assert read_all(client) == b"answer"


def test_a_receiver_that_does_not_read_holds_its_sender_back_and_loses_nothing(net: World) -> None:
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # the proxy's clients inherit it
    small.bind(("127.0.0.1", 0))
    small.listen()
    net.port = small.getsockname()[1]
    net.proxy.serve(small)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        token = net.grant({"host": "127.0.0.1", "port": port, "private": True})
        with net.tunnel(token, f"127.0.0.1:{port}") as client:
            host, _ = listener.accept()
            with host:
                sent = _send_until_held_back(host, 256 << 20)
            assert sent < 64 << 20  # kernel buffers, and a few of the proxy's
            client.shutdown(socket.SHUT_WR)
            assert len(read_all(client)) == sent


def _send_until_held_back(sender: socket.socket, most: int) -> int:
    sender.settimeout(0.5)
    sent = 0
    try:
        while sent < most:
            sent += sender.send(bytes(1 << 16))
    except TimeoutError:
        pass
    return sent


# What does not


@pytest.mark.parametrize(
    "authority",
    [
        "evil.test:443", "good.test:80", "good.test:8443", "good.test.evil.test:443", "xgood.test:443",
        "evil.test.good.test:443", "wild.test:443", "xwild.test:443", "127.0.0.1:443", "[::1]:443",
        "[::ffff:93.184.216.34]:443", f"{PUBLIC}:443", "169.254.169.254:80", "localhost:443",
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_denied_with_a_hint(net: World, secure: Origin, authority: str) -> None:
    token = net.grant("good.test:443", "*.wild.test:443")
    answer = net.connect(token, authority)
    assert status(answer) == 403
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"X-Sage-Egress: denied" in head
    told = json.loads(body)
    assert told["error"] == "egress_denied"
    assert told["hint"].startswith("add network=[")
    assert net.network.dialled == []
    assert net.network.asked == []
    assert net.decisions[0].decision == "deny"
    assert net.decisions[0].host
    assert net.decisions[0].hint == told["hint"]


@pytest.mark.parametrize(
    "target",
    [
        "good.test", "good.test:", ":443", "good.test:443:443", "good.test:443/", "good.test:https", "good.test:0",
        "good.test:99999", "user@good.test:443", "evil.test@good.test:443", "good.test\\@evil.test:443",
        "good.test%00.evil.test:443", "good.test#:443", "2130706433:443", "0x7f000001:443", "0x7f.0.0.1:443",
        "127.1:443", "0177.0.0.1:443", "::1:443", "[::1%lo]:443", "[good.test]:443", "good..test:443",
        "*.wild.test:443",
    ],
)  # fmt: skip
def test_a_target_that_can_be_read_in_two_ways_is_refused(net: World, secure: Origin, target: str) -> None:
    assert status(net.connect(net.grant("good.test:443", "*.wild.test:443"), target)) == 400
    assert net.network.dialled == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: good.test\r\n",
        b"GET https://good.test/ HTTP/1.1\r\nHost: good.test\r\n",
        b"GET ftp://good.test/ HTTP/1.1\r\nHost: good.test\r\n",
        b"GET http://user@good.test/ HTTP/1.1\r\nHost: good.test\r\n",
        b"GET http://good.test\\@evil.test/ HTTP/1.1\r\nHost: good.test\r\n",
        b"CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n",
        b"CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\nX : a\r\n",
        b"CONNECT good.test\x00:443 HTTP/1.1\r\nHost: a\r\n",
        b"CONNECT good.test:443\r\nHost: a\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n",
        b"POST http://good.test/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        b"POST http://good.test/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
    ],
)
def test_a_malformed_request_is_refused(net: World, secure: Origin, head: bytes) -> None:
    token = net.grant("good.test:443", {"host": "good.test", "port": 80, "private": True})
    assert status(net.ask(token, head)) in (400, 501, 505)
    assert net.network.dialled == []


def test_a_head_of_more_than_16_kb_is_refused(net: World, secure: Origin) -> None:
    token = net.grant("good.test:443")
    head = "CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\nX: " + "x" * 17_000 + "\r\n"
    assert status(net.ask(token, head)) == 431
    with net.dial() as client:  # one that never ends
        client.sendall(b"CONNECT good.test:443 HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
        assert status(read_all(client)) == 431


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"junk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 90_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxx",
    ],
)
def test_a_host_that_breaks_off_is_told_so_or_ends_the_answer(net: World, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        token = net.grant({"host": "127.0.0.1", "port": port, "private": True})
        with net.dial() as client:
            client.sendall(get(port).encode() + authorization(token) + b"\r\n")
            host, _ = listener.accept()
            with host:
                host.sendall(answer)
                host.shutdown(socket.SHUT_WR)
                got = read_all(client)
    if b"Content-Length" in answer:
        assert got.lower().startswith(b"http/1.1 200")
        assert got.endswith(b"xx")
    else:
        assert status(got) == 502
        assert b"broke off" in got


def test_bare_line_feeds_and_spaces_lead_to_no_other_host(net: World, secure: Origin) -> None:
    token = net.grant("good.test:443")
    lines = b"CONNECT evil.test:443 HTTP/1.1\nHost: good.test:443\n" + authorization(token).replace(
        b"\r", b""
    )
    with net.dial() as client:
        client.sendall(lines + b"\n")
        client.shutdown(socket.SHUT_WR)
        assert status(read_all(client)) in (400, 403)
    assert net.network.dialled == []


@pytest.mark.parametrize("plain", [True, False])
def test_without_the_right_token_nothing_is_said_about_any_host(
    net: World, secure: Origin, plain: bool
) -> None:
    token = net.grant("good.test:443")
    number, _, secret = token.partition("-")
    head = "GET http://good.test/" if plain else "CONNECT good.test:443"
    wrong = [
        None,
        "",
        "-",
        number,
        f"{number}-",
        f"{number}-{secret[:-1]}",
        f"{number}-{secret}x",
        f"99-{secret}",
    ]
    for each in wrong:
        answer = net.ask(each, f"{head} HTTP/1.1\r\nHost: a\r\n")
        assert status(answer) == 407, each
        assert b"Proxy-Authenticate: Basic" in answer
        assert b"good.test" not in answer
    assert {each.label for each in net.decisions} == {""}


@pytest.mark.parametrize(
    "value", [b"Bearer x", b"Basic", b"Basic !!!", b"Basic /w==", b"Basic \xff", b"basic  "]
)
def test_another_authorization_is_no_token(net: World, value: bytes) -> None:
    head = b"CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: " + value + b"\r\n"
    assert status(net.ask(None, head)) == 407


def test_two_tokens_are_none(net: World) -> None:
    token = net.grant("good.test:443")
    head = b"CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\n" + authorization(token)
    assert status(net.ask(token, head)) == 407


def test_a_token_opens_its_own_rules_only(net: World, secure: Origin) -> None:
    mine, other = net.grant("good.test:443", label="mine"), net.grant("other.test:443", label="other")
    assert status(net.connect(mine, "other.test:443")) == 403
    assert status(net.connect(other, "good.test:443")) == 403
    net.tunnel(mine, "good.test:443").close()
    assert net.decisions[-1].label == "mine"


def test_an_empty_list_means_none_and_a_list_of_one_is_one(net: World, secure: Origin) -> None:
    assert status(net.connect(net.proxy.grant((), "none"), "good.test:443")) == 403
    one = net.grant("good.test:443")
    net.tunnel(one, "good.test:443").close()
    assert status(net.connect(one, "other.test:443")) == 403


def test_a_redirect_to_another_host_is_denied_as_any_request(net: World, origin: Origin) -> None:
    origin.answers["/"] = (302, {"Location": "https://evil.test/stolen"}, b"")
    denied = pytest.raises(httpx.ProxyError, match=r'add network=\["evil.test:443"\]')
    with httpx.Client(proxy=net.url(net.grant(local(origin))), trust_env=False) as client, denied:
        client.get(f"http://127.0.0.1:{origin.port}/", follow_redirects=True)
    assert net.network.dialled == [("127.0.0.1", origin.port)]


# Addresses


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        [PUBLIC, "127.0.0.1"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["junk"],
    ],
)
def test_a_name_that_leads_inside_is_denied(net: World, secure: Origin, addresses: list[str]) -> None:
    net.network.names["good.test"] = addresses
    answer = net.connect(net.grant("good.test:443"), "good.test:443")
    assert status(answer) == 403
    assert net.network.dialled == []


def test_a_name_that_changes_its_address_after_the_check_leads_nowhere_else(
    net: World, secure: Origin
) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    net.network.resolve = lambda host, port: next(answers)
    token = net.grant("good.test:443")
    net.tunnel(token, "good.test:443").close()
    assert net.network.dialled == [(PUBLIC, 443)]  # the address that was checked, not the name again
    assert status(net.connect(token, "good.test:443")) == 403
    assert net.network.dialled == [(PUBLIC, 443)]


def test_private_opens_loopback_and_still_not_the_credentials_of_a_cloud(net: World, origin: Origin) -> None:
    net.network.names |= {"llm.lan": ["127.0.0.1"], "rebound.lan": ["169.254.169.254"]}
    said = [{"host": host, "port": origin.port, "private": True} for host in ("llm.lan", "rebound.lan")]
    token = net.grant(*said)
    assert status(net.ask(token, get(origin.port, host="llm.lan"))) == 200
    assert status(net.ask(token, get(origin.port, host="rebound.lan"))) == 403


def test_a_message_says_one_length_only(net: World, origin: Origin) -> None:
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    lengths = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    head = f"POST http://127.0.0.1:{origin.port}/ HTTP/1.1\r\nHost: a\r\n{lengths}"
    assert status(net.ask(token, head, body=b"5\r\nhello\r\n0\r\n\r\n")) == 200
    (_, _, headers, body) = origin.seen[0]
    assert body == b"hello"
    assert "content-length" not in headers


def test_plain_http_to_a_public_host_is_denied(net: World, origin: Origin) -> None:
    net.network.names["good.test"] = [PUBLIC]
    net.network.routes[PUBLIC, 80] = origin.port
    for private in (False, True):
        token = net.grant({"host": "good.test", "port": 80, "private": private})
        answer = net.ask(token, "GET http://good.test/ HTTP/1.1\r\nHost: a\r\n")
        assert status(answer) == 403
        assert b"use https://" in answer
    assert net.network.dialled == []


def test_a_host_that_cannot_be_reached_is_no_denial(net: World) -> None:
    token = net.grant("gone.test:443", "far.test:443", "empty.test:443")
    net.network.names |= {"far.test": [PUBLIC], "empty.test": []}
    for host in ("gone.test", "far.test", "empty.test"):
        answer = net.connect(token, f"{host}:443")
        assert status(answer) == 502
        assert b"X-Sage-Egress: failed" in answer
    assert net.decisions == []


def test_the_next_address_is_tried(net: World, secure: Origin) -> None:
    net.network.names["good.test"] = ["1.1.1.1", PUBLIC]
    net.tunnel(net.grant("good.test:443"), "good.test:443").close()
    assert [address for address, _ in net.network.dialled] == ["1.1.1.1", PUBLIC]


def test_a_name_service_that_hangs_is_given_up(pem: Path) -> None:
    release = threading.Event()
    with world(timeouts=Timeouts(resolve=0.2, linger=0.2)) as net:
        net.network.resolve = lambda host, port: [str(release.wait(PATIENCE_S))]
        answer = net.connect(net.grant("good.test:443"), "good.test:443")
        release.set()
    assert status(answer) == 502
    assert b"timed out" in answer


class Hanging:
    """A name service that answers for `good.test` alone, until it is released. asked: the other names."""

    def __init__(self, net: World) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()
        self._known = net.network.resolve
        net.network.resolve = self.resolve

    def resolve(self, host: str, port: int) -> Sequence[str]:
        if host != "good.test":
            self.asked.append(host)
            self.released.wait(PATIENCE_S)
        return self._known(host, port)


@pytest.fixture
def hanging(net: World) -> Iterator[Hanging]:
    found = Hanging(net)
    yield found
    found.released.set()


def ask_for_many(net: World, token: str, names: Sequence[str]) -> list[socket.socket]:
    clients = []
    for name in names:
        clients.append(net.dial())
        clients[-1].sendall(
            f"CONNECT {name}:443 HTTP/1.1\r\nHost: x\r\n".encode() + authorization(token) + b"\r\n"
        )
    return clients


def test_names_that_hang_keep_none_of_another_token_waiting(
    net: World, secure: Origin, hanging: Hanging
) -> None:
    """They took all threads that look names up, for as long as the name service did not answer."""
    evil = net.grant("*.evil.test:443", "good.test:443", label="evil")
    waiting = ask_for_many(net, evil, [f"n{i}.evil.test" for i in range(100)])
    wait_until(lambda: len(hanging.asked) == 4)
    net.tunnel(net.grant("good.test:443"), "good.test:443").close()
    assert len(hanging.asked) == 4
    for client in waiting:
        client.close()


def test_names_that_hang_hold_their_threads_when_nobody_waits_for_them_any_more(
    net: World, secure: Origin, hanging: Hanging
) -> None:
    token = net.grant("*.evil.test:443", "good.test:443")
    for _ in range(3):
        for client in ask_for_many(net, token, [f"n{i}.evil.test" for i in range(6)]):
            client.close()
    wait_until(lambda: len(hanging.asked) == 4)
    (behind,) = ask_for_many(net, token, ["good.test"])
    hanging.released.set()
    assert behind.recv(12) == b"HTTP/1.1 200"
    behind.close()


class Always:
    """Lets every host be called; told: whether it answered."""

    def __init__(self, told: list[bool | None]) -> None:
        self._told = told

    async def ask(self, endpoint: str) -> Permit | float:
        return self._told.append


def test_who_has_no_room_left_is_told_to_ask_again_and_its_host_is_not_blamed() -> None:
    told: list[bool | None] = []
    with world(timeouts=Timeouts(resolve=0.3, linger=0.2), gate=Always(told)) as net:
        hanging = Hanging(net)
        token = net.grant("*.evil.test:443", "good.test:443")
        waiting = ask_for_many(net, token, [f"n{i}.evil.test" for i in range(4)])
        wait_until(lambda: len(hanging.asked) == 4)
        answer = net.connect(token, "good.test:443")
        for client in waiting:
            assert b"502" in client.recv(12)
            client.close()
        hanging.released.set()
    assert status(answer) == 503
    assert b"Retry-After: 1" in answer
    assert told.count(None) == 1
    assert told.count(False) == 4


# The name in the TLS handshake


def shake(net: World, token: str, pem: Path, name: str | None, authority: str = "good.test:443") -> None:
    context = client_context(pem)
    context.check_hostname = False
    with net.tunnel(token, authority) as raw, context.wrap_socket(raw, server_hostname=name) as client:
        assert client.version()


def test_the_handshake_names_the_host_that_was_asked_for(net: World, secure: Origin, pem: Path) -> None:
    token = net.grant("good.test:443", f"{PUBLIC}:443")
    shake(net, token, pem, "good.test")
    shake(net, token, pem, "GOOD.test")
    shake(net, token, pem, None, f"{PUBLIC}:443")


@pytest.mark.parametrize(
    ("name", "authority"),
    [("other.test", "good.test:443"), (None, "good.test:443"), ("good.test", f"{PUBLIC}:443")],
)
def test_a_handshake_for_another_host_is_cut_before_it_goes_out(
    net: World, secure: Origin, pem: Path, name: str | None, authority: str
) -> None:
    token = net.grant("good.test:443", f"{PUBLIC}:443")
    with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
        shake(net, token, pem, name, authority)
    assert net.wait_for(lambda each: each.decision == "end").sent_bytes == 0
    assert "TLS handshake names" in net.wait_for(lambda each: each.decision == "deny").why


def test_a_handshake_in_pieces_is_read_as_a_whole(net: World, secure: Origin, pem: Path) -> None:
    context = client_context(pem)
    for name, passes in (("good.test", True), ("other.test", False)):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=name)
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()[5:]
        with net.tunnel(net.grant("good.test:443"), "good.test:443") as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(hello), 100):
                piece = hello[start : start + 100]
                raw.sendall(b"\x16\x03\x01" + struct.pack(">H", len(piece)))
                raw.sendall(piece)
            assert (raw.recv(1) == b"\x16") is passes  # the server's handshake, or the proxy's alert


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x16\x02\x00",
        b"\x80\x2e\x01\x03\x01",
    ],
)
def test_only_tls_goes_out_to_a_public_host(net: World, secure: Origin, first: bytes) -> None:
    with net.tunnel(net.grant("good.test:443"), "good.test:443") as client:
        client.sendall(first)
        assert read_all(client) in (b"", b"\x15\x03\x03\x00\x02\x02\x31")
    assert net.wait_for(lambda each: each.decision == "end").sent_bytes == 0


def test_what_comes_with_the_request_is_checked_too(net: World, secure: Origin) -> None:
    head = "CONNECT good.test:443 HTTP/1.1\r\nHost: a\r\n"
    answer = net.ask(net.grant("good.test:443"), head, body=b"GET / HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert net.wait_for(lambda each: each.decision == "end").sent_bytes == 0
    assert secure.seen == []


def test_who_does_not_begin_a_handshake_is_cut(pem: Path) -> None:
    with world(timeouts=Timeouts(head=0.3, linger=0.1)) as net, Origin(server_context(pem)) as secure:
        net.network.names["good.test"] = [PUBLIC]
        net.network.routes[PUBLIC, 443] = secure.port
        with net.tunnel(net.grant("good.test:443"), "good.test:443") as client:
            client.sendall(b"\x16\x03\x01\x01\x00slow")
            assert read_all(client) == b"\x15\x03\x03\x00\x02\x02\x31"


# Grants end


def test_a_revoked_token_is_unknown_and_its_tunnels_are_cut(net: World, origin: Origin) -> None:
    kept, gone = net.grant(local(origin)), net.grant(local(origin))
    authority = f"127.0.0.1:{origin.port}"
    with net.tunnel(kept, authority) as open_one, net.tunnel(gone, authority) as cut_one:
        net.proxy.revoke(gone)
        cut_one.settimeout(PATIENCE_S)
        assert read_all(cut_one) == b""
        assert status(net.connect(gone, authority)) == 407
        open_one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(open_one).startswith(b"HTTP/1.1 200")
    net.proxy.revoke(gone)  # again, and what was never a token: nothing happens
    net.proxy.revoke("junk")
    assert status(net.connect(kept, "evil.test:443")) == 403


def test_a_token_that_is_revoked_while_its_request_waits_gets_nothing(net: World, origin: Origin) -> None:
    entered, release = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        entered.set()
        release.wait(PATIENCE_S)
        return ["127.0.0.1"]

    net.network.resolve = resolve
    token = net.grant({"host": "llm.lan", "port": origin.port, "private": True})
    with net.dial() as client:
        client.sendall(get(origin.port, host="llm.lan").encode() + authorization(token) + b"\r\n")
        assert entered.wait(PATIENCE_S)
        net.proxy.revoke(token)
        assert read_all(client) == b""
        release.set()
    assert origin.seen == []
    assert net.network.dialled == []


def test_a_thousand_tokens_are_told_apart(net: World, origin: Origin) -> None:
    tokens = [net.proxy.grant(rules(f"host-{number}.test:443"), str(number)) for number in range(1000)]
    assert len(set(tokens)) == 1000
    last = net.grant(local(origin), label="last")
    for number in (0, 500, 999):
        # Allowed, but it has no address.
        assert status(net.connect(tokens[number], f"host-{number}.test:443")) == 502
        assert status(net.connect(tokens[number], f"host-{number - 1}.test:443")) in (400, 403)
    for token in tokens:
        net.proxy.revoke(token)
    assert status(net.ask(last, get(origin.port))) == 200


def test_close_cuts_everything_and_serves_no_more(origin: Origin) -> None:
    with world() as net:
        with net.tunnel(net.grant(local(origin)), f"127.0.0.1:{origin.port}") as client, net.dial() as idle:
            net.proxy.close()
            assert read_all(client) == read_all(idle) == b""
        with pytest.raises(OSError):
            net.dial()
        net.proxy.close()  # again: nothing
        with pytest.raises(RuntimeError, match="closed"):
            net.proxy.serve(socket.create_server(("127.0.0.1", 0)))


def test_one_listener_ends_and_another_goes_on(net: World, origin: Origin) -> None:
    more = socket.create_server(("127.0.0.1", 0))
    port = more.getsockname()[1]
    net.proxy.serve(more)
    net.stop_serving()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            net.dial().close()
        except (ConnectionRefusedError, ConnectionResetError):
            break
    else:
        pytest.fail("the first listener still accepts")
    net.port = port
    assert status(net.ask(net.grant(local(origin)), get(origin.port))) == 200


# What clients may do to it


def test_a_client_that_sends_its_request_slowly_is_cut(origin: Origin) -> None:
    with world(timeouts=Timeouts(head=0.3)) as net, net.dial() as client:
        client.settimeout(0.05)
        started = time.monotonic()
        while not _is_cut(client):
            assert time.monotonic() - started < PATIENCE_S


def _is_cut(client: socket.socket) -> bool:
    """Sends one more byte, and looks for the end."""
    try:
        client.sendall(b"C")
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_many_silent_clients_keep_nobody_out(net: World, origin: Origin) -> None:
    silent = [net.dial() for _ in range(300)]
    try:
        assert status(net.ask(net.grant(local(origin)), get(origin.port))) == 200
        assert len(net.proxy._unheard) <= 256
    finally:
        for each in silent:
            each.close()


def test_one_token_cannot_take_all_connections(net: World) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=300) as listener:
        port = listener.getsockname()[1]
        greedy = net.grant({"host": "127.0.0.1", "port": port, "private": True}, label="greedy")
        modest = net.grant({"host": "127.0.0.1", "port": port, "private": True}, label="modest")
        tunnels = [net.tunnel(greedy, f"127.0.0.1:{port}") for _ in range(256)]
        answer = net.connect(greedy, f"127.0.0.1:{port}")
        assert status(answer) == 503
        assert b"Retry-After: 1" in answer
        net.tunnel(modest, f"127.0.0.1:{port}").close()
        for each in tunnels:
            each.close()


def test_a_tunnel_in_which_nothing_moves_is_cut(origin: Origin) -> None:
    with world(timeouts=Timeouts(idle=0.2)) as net:
        with net.tunnel(net.grant(local(origin)), f"127.0.0.1:{origin.port}") as client:
            client.settimeout(PATIENCE_S)
            assert read_all(client) == b""
        net.wait_for(lambda each: each.decision == "end")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=400),
        st.text(alphabet="CONECTGHP/1. :\r\n\x00@[]%ahost-xyz0123456789\t", max_size=300).map(
            lambda text: text.encode("latin-1")
        ),
    )
)
def test_no_bytes_of_a_client_stop_it(fuzzed: World, data: bytes) -> None:
    for prefix in (b"", b"CONNECT good.test:443 HTTP/1.1\r\n"):
        with fuzzed.dial() as client:
            client.sendall(prefix + data + b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            answer = read_all(client)
            assert not answer or status(answer) >= 400
    assert fuzzed.network.dialled == []


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[World]:
    """One proxy for all examples; at the end it must still serve."""
    with world(timeouts=Timeouts(head=1, linger=0.2)) as net:
        yield net
        with Origin() as origin:
            assert status(net.ask(net.grant(local(origin)), get(origin.port))) == 200
            net.network.dialled.clear()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_first_bytes_in_a_tunnel_stop_it(fuzzed: World, data: bytes) -> None:
    fuzzed.network.names["good.test"] = ["127.0.0.1"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        token = fuzzed.grant({"host": "good.test", "port": port, "private": True})
        with fuzzed.tunnel(token, f"good.test:{port}") as client:
            client.sendall(b"\x16\x03\x01" + data)
            client.shutdown(socket.SHUT_WR)
            host, _ = listener.accept()
            with host:
                host.settimeout(PATIENCE_S)
                assert read_all(host) == b""  # no TLS that names good.test can be made by chance
        fuzzed.proxy.revoke(token)
    fuzzed.network.dialled.clear()


def test_no_connection_is_left_behind(origin: Origin) -> None:
    with world() as net:
        token = net.grant(local(origin))
        for _ in range(20):
            assert status(net.ask(token, get(origin.port))) == 200
        deadline = time.monotonic() + PATIENCE_S
        while net.proxy._tasks and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not net.proxy._tasks
    gc.collect()


# What is reported


def test_a_burst_of_one_denial_is_reported_once_and_counted() -> None:
    clock = FakeClock()
    with world(clock=clock) as net:
        token = net.grant(label="op")
        for _ in range(5):
            net.connect(token, "evil.test:443")
        net.connect(token, "other.test:443")
        assert [(each.host, each.repeats) for each in net.decisions] == [("evil.test", 0), ("other.test", 0)]
        clock.advance(61)
        net.connect(token, "evil.test:443")
        assert (net.decisions[-1].host, net.decisions[-1].repeats) == ("evil.test", 4)
        net.connect(token, "evil.test:443")
        net.proxy.revoke(token)
        assert net.wait_for(lambda each: each.repeats == 1).host == "evil.test"


def test_a_client_that_tries_many_hosts_does_not_fill_the_log(net: World) -> None:
    token = net.grant(label="scanner")
    for number in range(130):
        net.connect(token, f"host-{number}.test:443")
    assert len(net.decisions) == 101
    assert "other hosts" in net.decisions[-1].why


def test_what_cannot_be_reported_is_not_allowed(origin: Origin) -> None:
    def fail(decision: Decision) -> None:
        raise OSError("the audit log is full")

    with world(on_decision=fail) as net:
        assert status(net.ask(net.grant(local(origin)), get(origin.port))) == 500
        assert status(net.connect(net.grant(), "evil.test:443")) == 403
    assert origin.seen == []


def test_it_needs_no_thread_before_it_serves() -> None:
    before = threading.active_count()
    proxy = EgressProxy(lambda decision: None)
    proxy.revoke(proxy.grant((), "op"))
    assert threading.active_count() == before
    proxy.close()
