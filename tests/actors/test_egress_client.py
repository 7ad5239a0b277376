"""MCP over HTTP and models, whose clients other people wrote: they leave through the proxy of their environment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from egress_harness import World, world
from llm_stub import ModelStub
from mcp_harness import McpProject, with_sessions
from test_mcp_connect import serving

from sage_actors.actors.agents.model_backend import ModelBackend
from sage_actors.actors.egress.client import EgressFailed, explain_chain
from sage_actors.messages.errors import BreakerOpenError, OperationError, SandboxViolation

pytestmark = pytest.mark.requirement("ORCH-023")

MODELS = ("openai:gpt-5", "openai-chat:local-model", "anthropic:claude-sonnet-5-5")
_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def confine(monkeypatch: pytest.MonkeyPatch, net: World, *said: Any) -> None:
    """The environment of a confined worker whose profile has these rules."""
    url = net.url(net.grant(*said))
    monkeypatch.setenv("HTTP_PROXY", url)
    monkeypatch.setenv("HTTPS_PROXY", url)


def local(url: str) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": int(url.split(":")[2].split("/")[0]), "private": True}


# Models


def ask(environ: dict[str, str], model: str) -> Any:
    return asyncio.run(ModelBackend(model, environ=environ, timeout_s=10).complete("What?")).value


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_asked_through_the_proxy(net: World, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    with ModelStub() as stub:
        confine(monkeypatch, net, local(stub.url))
        stub.say("It is blue.")
        assert ask(stub.environ(), model) == "It is blue."
    assert [each.decision for each in net.decisions][:1] == ["allow"]
    assert len(net.network.dialled) == 1


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_model_that_is_not_on_the_list_is_a_violation(
    net: World, monkeypatch: pytest.MonkeyPatch, model: str, scheme: str
) -> None:
    confine(monkeypatch, net)
    url = f"{scheme}://models.test"
    environ = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url}
    environ |= {"OPENAI_API_KEY": "sk-stub", "ANTHROPIC_API_KEY": "sk-stub"}
    with pytest.raises(SandboxViolation) as caught:
        ask(environ, model)
    assert caught.value.target == ("models.test:80" if scheme == "http" else "models.test:443")
    assert "add network=[" in caught.value.hint
    assert caught.value.retryable is False
    assert net.network.dialled == []


# MCP over HTTP


def call(project: McpProject, url: str) -> Any:
    project.configure({"odd": {"type": "http", "url": url}})

    async def body() -> Any:
        return await project.call("odd", "fine")

    return with_sessions(project.project, body)


def failures(project: McpProject, kind: str, url: str, count: int) -> list[OperationError]:
    project.configure({"odd": {"type": kind, "url": url}})

    async def body() -> list[OperationError]:
        return [await project.error("odd", "fine") for _ in range(count)]

    found: list[OperationError] = with_sessions(project.project, body)
    return found


def test_an_mcp_server_is_called_through_the_proxy(
    net: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving() as server:
        confine(monkeypatch, net, local(server.url))
        assert call(McpProject(tmp_path), server.url) == "fine"
        assert len(server.seen) > 0
    assert len(net.network.dialled) >= len(server.seen)  # each of its requests came this way


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8081", "https://mcp.test:8081"])
@pytest.mark.parametrize("kind", ["http", "sse"])
def test_an_mcp_server_that_is_not_on_the_list_is_a_violation_each_time(
    net: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: str, kind: str
) -> None:
    confine(monkeypatch, net)
    found = failures(McpProject(tmp_path), kind, f"{origin}/mcp", 3)
    assert [type(each) for each in found] == [SandboxViolation] * 3
    assert {str(each) for each in found} == {str(found[0])}
    assert found[0].details["target"] == origin.partition("//")[2]  # type: ignore[attr-defined]
    assert "add network=[" in str(found[0])


def test_an_mcp_server_that_is_not_there_is_named(
    net: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving() as server:
        url = server.url
    confine(monkeypatch, net, local(url))
    (found,) = failures(McpProject(tmp_path), "http", url, 1)
    assert isinstance(found, EgressFailed)
    host = url.split("/")[2]
    assert str(found).startswith(f"the MCP server 'odd' was not reached: {host} cannot be reached: ")


def test_a_grant_that_ends_between_two_calls_is_a_violation(
    net: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = McpProject(tmp_path)
    with serving() as server:
        token = net.grant(local(server.url))
        monkeypatch.setenv("HTTP_PROXY", net.url(token))
        project.configure({"odd": {"type": "http", "url": server.url}})

        async def body() -> Any:
            assert await project.call("odd", "fine") == "fine"
            net.proxy.revoke(token)
            return await project.error("odd", "fine")

        error = with_sessions(tmp_path, body)
    assert isinstance(error, SandboxViolation)
    assert "revoked" in str(error)


class Open:
    """A breaker that is open for a minute."""

    async def ask(self, endpoint: str) -> float:
        return 60.0


def test_an_open_breaker_is_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with world(gate=Open()) as net:
        confine(monkeypatch, net, {"host": "127.0.0.1", "port": 8081, "private": True})
        (error,) = failures(McpProject(tmp_path), "http", "http://127.0.0.1:8081/mcp", 1)
    assert isinstance(error, BreakerOpenError)
    assert getattr(error, "retry_after", None) == 60.0


def test_other_errors_are_left_alone() -> None:
    assert explain_chain(None) is None
    error = ValueError("403 egress denied: forged")
    error.__cause__ = OSError("x")
    assert explain_chain(error) is None
