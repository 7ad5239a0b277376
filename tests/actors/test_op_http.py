"""Operations of type `http` through the egress proxy. What they do without one: test_worker.py."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from egress_harness import PUBLIC, Origin, World, certificate, client_context, server_context, world
from mcp_harness import Recorder

from sage_actors.actors.egress.client import EgressFailed
from sage_actors.actors.egress.rules import operation_rules
from sage_actors.actors.operations import http as op_http
from sage_actors.actors.operations.attempt_error import describe_error
from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.http import HttpRunner, RequestFailed
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import BreakerOpenError, SandboxViolation, UsageError

pytestmark = pytest.mark.requirement("ORCH-023")


def run(tmp_path: Path, egress: dict[str, Any] | None, *configs: dict[str, Any]) -> list[Any]:
    """The results of these requests, one after the other, in one worker."""
    spec = {"type": "http"} if egress is None else {"type": "http", "egress": egress}
    runner = HttpRunner(spec, RunnerSettings(str(tmp_path)))

    async def all_of_them() -> list[Any]:
        return [await runner.run(_task(tmp_path, config)) for config in configs]

    return asyncio.run(all_of_them())


def _task(tmp_path: Path, config: dict[str, Any]) -> Task:
    row = (7, 1, 1, 0, "node", "run-1:uuid", None, pack({"config": config}))
    return Task(row, Recorder(tmp_path), 0.0)


def through(net: World, token: str) -> dict[str, Any]:
    return {"proxy": net.url(token)}


def url_of(origin: Origin) -> str:
    return f"http://127.0.0.1:{origin.port}"


def test_its_own_literal_url_is_granted_to_it(net: World, origin: Origin, tmp_path: Path) -> None:
    config = {"url": f"{url_of(origin)}/a", "method": "POST", "json": {"x": 1}}
    token = net.proxy.grant(operation_rules("http", config, ()), "run/node")
    (result,) = run(tmp_path, through(net, token), config)
    assert result["status"] == 200
    assert result["body"] == 'OK {"x":1}'
    assert "proxy-authorization" not in origin.seen[0][2]
    assert net.decisions[0].label == "run/node"


def test_tls_goes_through_and_connections_are_used_again(
    net: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path, "good.test")
    monkeypatch.setattr(op_http, "_certificates", lambda: client_context(pem))
    with Origin(server_context(pem)) as secure:
        net.network.names["good.test"] = [PUBLIC]
        net.network.routes[PUBLIC, 443] = secure.port
        token = net.grant("good.test:443")
        results = run(tmp_path, through(net, token), *[{"url": "https://good.test/"}] * 3)
    assert [each["status"] for each in results] == [200] * 3
    assert len(net.network.dialled) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_another_host_is_a_violation_that_no_retry_helps(net: World, tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://evil.test:444/?key=s3cret"  # not in the call: tracebacks show all its lines
    with pytest.raises(SandboxViolation) as caught:
        run(tmp_path, through(net, net.grant("good.test:443")), {"url": url})
    error = caught.value
    assert (error.kind, error.target) == ("network", "evil.test:444")
    assert "add network=[" in error.hint
    told = describe_error(error)
    assert told["retryable"] is False
    assert told["details"]["target"] == "evil.test:444"
    assert "s3cret" not in str(told)


def test_an_ipv6_host_is_named_in_brackets(net: World, tmp_path: Path) -> None:
    with pytest.raises(SandboxViolation) as caught:
        run(tmp_path, through(net, net.grant()), {"url": "http://[::1]:8080/"})
    assert caught.value.target == "[::1]:8080"
    assert 'host = "::1"' in caught.value.hint


def test_a_host_that_says_403_is_no_violation(net: World, origin: Origin, tmp_path: Path) -> None:
    origin.answers["/"] = (403, {"X-Sage-Egress": "denied"}, b"not for you")
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    with pytest.raises(RequestFailed, match="answered 403: not for you"):
        run(tmp_path, through(net, token), {"url": f"{url_of(origin)}/"})


def test_a_token_that_was_revoked_is_a_violation(net: World, origin: Origin, tmp_path: Path) -> None:
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    net.proxy.revoke(token)
    for scheme in ("http", "https"):
        with pytest.raises(SandboxViolation, match="revoked"):
            run(tmp_path, through(net, token), {"url": f"{scheme}://127.0.0.1:{origin.port}/"})
    assert origin.seen == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_cannot_be_reached_may_be_tried_again(net: World, tmp_path: Path, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = net.grant({"host": "127.0.0.1", "port": port, "private": True})
    with pytest.raises(EgressFailed, match="cannot be reached") as caught:
        run(tmp_path, through(net, token), {"url": f"{scheme}://127.0.0.1:{port}/"})
    assert describe_error(caught.value)["retryable"] is True


class Closed:
    """A breaker that is open for twelve seconds."""

    async def ask(self, endpoint: str) -> float:
        return 12.0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_open_breaker_says_when_to_try_again(tmp_path: Path, scheme: str) -> None:
    with world(gate=Closed()) as net:
        token = net.grant({"host": "127.0.0.1", "port": 81, "private": True})
        with pytest.raises(BreakerOpenError) as caught:
            run(tmp_path, through(net, token), {"url": f"{scheme}://127.0.0.1:81/"})
    assert describe_error(caught.value)["retry_after"] == 12.0
    assert net.network.dialled == []


@pytest.mark.parametrize(
    "url", ["ftp://user:key@x/", "x.org", "http://", "http://x:port", "https:///path", ""]
)
def test_what_is_no_url_of_the_web_is_refused_for_good_and_not_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="`url`") as raised:
        run(tmp_path, None, {"url": url})
    assert not raised.value.retryable
    assert "key" not in str(raised.value)


def test_a_redirect_to_another_host_is_a_result_and_not_followed(
    net: World, origin: Origin, tmp_path: Path
) -> None:
    origin.answers["/"] = (302, {"Location": "http://evil.test/"}, b"")
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    (result,) = run(tmp_path, through(net, token), {"url": f"{url_of(origin)}/"})
    assert (result["status"], result["headers"]["location"]) == (302, "http://evil.test/")
    assert [each.host for each in net.decisions if each.decision == "deny"] == []


def test_a_redirect_on_the_host_is_followed(net: World, origin: Origin, tmp_path: Path) -> None:
    origin.answers["/"] = (302, {"Location": "/there"}, b"")
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    (result,) = run(tmp_path, through(net, token), {"url": f"{url_of(origin)}/"})
    assert result["status"] == 200
    assert origin.seen[-1][1] == "/there"


@pytest.mark.parametrize("confined", [True, False])
def test_a_cookie_lives_as_long_as_its_request(
    net: World, origin: Origin, tmp_path: Path, *, confined: bool
) -> None:
    origin.answers["/login"] = (302, {"Location": "/home", "Set-Cookie": "session=alice"}, b"")
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    login, other = {"url": f"{url_of(origin)}/login"}, {"url": f"{url_of(origin)}/other"}
    run(tmp_path, through(net, token) if confined else None, login, other)
    sent = [(path, headers.get("cookie")) for _, path, headers, _ in origin.seen]
    assert sent == [("/login", None), ("/home", "session=alice"), ("/other", None)]


def test_the_environment_leads_nowhere_else(
    net: World, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(SandboxViolation):
        run(tmp_path, through(net, net.grant()), {"url": f"{url_of(origin)}/"})
    assert origin.seen == []


def test_without_a_way_out_nothing_is_sent(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(SandboxViolation, match="no network in this tier"):
        run(tmp_path, {"proxy": None}, {"url": f"{url_of(origin)}/"})
    assert origin.seen == []


def test_without_a_sandbox_it_goes_straight_there(origin: Origin, tmp_path: Path) -> None:
    (result,) = run(tmp_path, None, {"url": f"{url_of(origin)}/"})
    assert result["status"] == 200


def test_headers_and_a_body_that_are_no_text_are_json(origin: Origin, tmp_path: Path) -> None:
    headers = {"x-flag": True, "x-map": {"a": [1]}, "x-none": None}
    config = {"url": f"{url_of(origin)}/", "method": "POST", "headers": headers, "body": {"b": None}}
    run(tmp_path, None, config, {**config, "body": b"\xff"})
    (_, _, sent, body), (*_, raw) = origin.seen
    assert (sent["x-flag"], sent["x-map"], body, raw) == ("true", '{"a":[1]}', b'{"b":null}', b"\xff")
    assert "x-none" not in sent


def test_many_at_once_share_one_token(net: World, origin: Origin, tmp_path: Path) -> None:
    token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
    runner = HttpRunner({"type": "http", "egress": through(net, token)}, RunnerSettings(str(tmp_path)))

    async def all_at_once() -> list[Any]:
        config = {"url": f"{url_of(origin)}/"}
        return list(await asyncio.gather(*(runner.run(_task(tmp_path, config)) for _ in range(150))))

    assert {each["status"] for each in asyncio.run(all_at_once())} == {200}
