"""An egress proxy on a real socket, with hosts behind it: a web server, a TLS server, and a made-up name service.

Public addresses lead to servers on the loopback interface, by the same seam that a test of a resolver would use.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sage_actors.actors.egress.connection import Timeouts
from sage_actors.actors.egress.doorman import proxy_url
from sage_actors.actors.egress.http import Streams
from sage_actors.actors.egress.proxy import Decision, EgressProxy, Rule
from sage_actors.actors.egress.rules import parse_rules

PUBLIC = "93.184.216.34"
PATIENCE_S = 10.0


def rules(*said: Any) -> tuple[Rule, ...]:
    problems: list[Any] = []
    found = parse_rules(list(said), "network", problems)
    assert not problems, problems
    return found


class Network:
    """names: host -> addresses; `resolve` looks there, and may be replaced. routes: (public address, port) -> port on
    this machine. dialled: in order."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.routes: dict[tuple[str, int], int] = {}
        self.dialled: list[tuple[str, int]] = []
        self.asked: list[str] = []
        self.resolve: Callable[[str, int], Sequence[str]] = self._resolve

    def _resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.names[host]

    async def connect(self, address: str, port: int) -> Streams:
        self.dialled.append((address, port))
        if (address, port) in self.routes:
            return await asyncio.open_connection("127.0.0.1", self.routes[address, port])
        if not ipaddress.ip_address(address).is_loopback:
            raise OSError(f"no route to {address}")
        return await asyncio.open_connection(address, port)


class World:
    """A proxy and what is behind it. `decisions`: all that it reported."""

    def __init__(self, **options: Any) -> None:
        self.network = Network()
        self.decisions: list[Decision] = []
        self._told = threading.Condition()
        options.setdefault("on_decision", self._hear)
        options.setdefault("timeouts", Timeouts(head=5, resolve=5, connect=5, idle=30, linger=0.5))
        self.proxy = EgressProxy(
            resolve=lambda host, port: self.network.resolve(host, port),
            connect=self.network.connect,
            **options,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.stop_serving = self.proxy.serve(listener)

    def _hear(self, decision: Decision) -> None:
        with self._told:
            self.decisions.append(decision)
            self._told.notify_all()

    def wait_for(self, wanted: Callable[[Decision], bool]) -> Decision:
        """The first decision like that; waits for it."""

        def found() -> Decision | None:
            return next((each for each in self.decisions if wanted(each)), None)

        with self._told:
            assert self._told.wait_for(lambda: found() is not None, PATIENCE_S), self.decisions
            decision = found()
            assert decision is not None
            return decision

    def grant(self, *said: Any, label: str = "op") -> str:
        return self.proxy.grant(rules(*said), label)

    def url(self, token: str) -> str:
        return proxy_url(token, self.port)

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def ask(self, token: str | None, head: str | bytes, *, body: bytes = b"") -> bytes:
        """Sends a request as it is, with the token, and reads to the end."""
        raw = head.encode("latin-1") if isinstance(head, str) else head
        with self.dial() as client:
            client.sendall(raw + authorization(token) + b"\r\n" + body)
            return read_all(client)

    def connect(self, token: str | None, authority: str) -> bytes:
        """The answer to CONNECT, when the proxy refuses it."""
        return self.ask(token, f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n")

    def tunnel(self, token: str, authority: str) -> socket.socket:
        """An open tunnel."""
        client = self.dial()
        client.sendall(
            f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n".encode() + authorization(token) + b"\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            part = client.recv(1)
            assert part, answer
            answer += part
        assert answer.startswith(b"HTTP/1.1 200"), answer
        return client


@contextmanager
def world(**options: Any) -> Iterator[World]:
    found = World(**options)
    try:
        yield found
    finally:
        found.proxy.close()


def authorization(token: str | None) -> bytes:
    if token is None:
        return b""
    return b"Proxy-Authorization: Basic " + base64.b64encode(f"sage:{token}".encode()) + b"\r\n"


def read_all(client: socket.socket) -> bytes:
    data = b""
    try:
        while part := client.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class Origin:
    """A web server on the loopback interface. seen: (method, path, headers, body) of each request."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self._server = _Server((host, 0), _handler(self))
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Origin:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(origin: Origin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                pass  # a handshake that was cut

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self._chunks() if "transfer-encoding" in headers else self._body(headers)
            origin.seen.append((self.command, self.path, headers, body))
            code, more, content = origin.answers.get(self.path, (200, {}, b"OK " + body))
            self.send_response(code)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET

        def _body(self, headers: dict[str, str]) -> bytes:
            return self.rfile.read(int(headers.get("content-length", "0")))

        def _chunks(self) -> bytes:
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler


def certificate(directory: Path, *names: str) -> Path:
    """A self-signed certificate for these names, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    path = directory / "certificate.pem"
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + built.public_bytes(encoding))
    return path


def server_context(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def client_context(path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))
