"""Models through their providers' own clients, against a server on the loopback interface."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from llm_stub import INPUT_TOKENS, OUTPUT_TOKENS, ModelStub

from sage_actors.actors.agents.model_backend import ModelBackend, ModelFailed
from sage_actors.messages.backend import Completion
from sage_actors.messages.errors import UsageError

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "minLength": 3}, "size": {"enum": ["S", "L"]}},
    "required": ["title", "size"],
    "additionalProperties": False,
}
MODELS = ("openai:gpt-5", "openai-chat:local-model", "anthropic:claude-sonnet-5-5")


@pytest.fixture
def stub() -> Iterator[ModelStub]:
    with ModelStub() as server:
        yield server


def ask(stub: ModelStub, model: str, schema: Any = None, **options: Any) -> Completion:
    options.setdefault("timeout_s", 20.0)
    return asyncio.run(ModelBackend(model, environ=stub.environ(), **options).complete("What?", schema))


@pytest.mark.requirement("ORCH-006")
@pytest.mark.parametrize("model", MODELS)
def test_a_text_and_its_usage_come_back(stub: ModelStub, model: str) -> None:
    stub.say("It is blue.")
    completion = ask(stub, model, max_tokens=123)
    assert completion.value == "It is blue."
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)
    ((path, headers, body),) = stub.requests
    assert 123 in (body.get("max_tokens"), body.get("max_completion_tokens"), body.get("max_output_tokens"))
    assert "stub" in (headers.get("authorization") or headers["x-api-key"])
    assert "What?" in str(body)
    assert path.startswith("/v1/")


@pytest.mark.parametrize("model", MODELS)
def test_an_object_of_the_schema_comes_back(stub: ModelStub, model: str) -> None:
    stub.say({"title": "The title", "size": "L"})
    assert ask(stub, model, SCHEMA).value == {"title": "The title", "size": "L"}


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_that_does_not_fit_is_repaired_once_and_both_are_paid(stub: ModelStub, model: str) -> None:
    stub.say({"title": "x", "size": "L"})
    stub.say({"title": "xyz", "size": "L"})
    completion = ask(stub, model, SCHEMA)
    assert completion.value["title"] == "xyz"
    assert completion.usage.input_tokens == 2 * INPUT_TOKENS
    assert "$.title" in str(stub.requests[1][2])


def test_an_answer_that_never_fits_is_an_error_with_its_usage(stub: ModelStub) -> None:
    for _ in range(5):
        stub.say({"title": "x", "size": "M"})
    with pytest.raises(ModelFailed) as caught:
        ask(stub, MODELS[1], SCHEMA)
    assert len(stub.requests) == 2
    assert caught.value.usage.output_tokens == 2 * OUTPUT_TOKENS
    assert caught.value.retryable is True


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("status", "retryable"), [(400, False), (401, False), (404, False), (429, True), (500, True), (529, True)]
)
def test_a_refusal_says_whether_to_ask_again(
    stub: ModelStub, model: str, status: int, retryable: bool
) -> None:
    stub.refuse(status, retry_after="7" if status == 429 else None, message="no luck today")
    with pytest.raises(ModelFailed, match="no luck today") as caught:
        ask(stub, model)
    assert caught.value.retryable is retryable
    assert caught.value.retry_after == (7.0 if status == 429 else None)
    assert caught.value.details == {"model": model, "status": status}
    assert len(stub.requests) == 1  # the client repeats nothing by itself
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("model", [MODELS[0], MODELS[2]])
def test_a_server_that_does_not_answer_in_time_may_be_asked_again(stub: ModelStub, model: str) -> None:
    stub.stall(2)
    with pytest.raises(ModelFailed) as caught:
        ask(stub, model, timeout_s=0.2)
    assert caught.value.retryable is True


def test_a_server_that_is_not_there_may_be_asked_again(stub: ModelStub) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        environ = {**stub.environ(), "OPENAI_BASE_URL": url}
        with pytest.raises(ModelFailed) as caught:
            asyncio.run(ModelBackend("openai:gpt-5", environ=environ, timeout_s=5).complete("x"))
    assert caught.value.retryable is True


def test_one_backend_serves_several_event_loops_and_many_prompts_at_once(stub: ModelStub) -> None:
    backend = ModelBackend("openai-chat:m", environ=stub.environ(), timeout_s=20)

    async def many() -> list[Completion]:
        return await asyncio.gather(*(backend.complete(f"{number}") for number in range(8)))

    for _ in range(2):
        assert [each.value for each in asyncio.run(many())] == ["stub"] * 8


def test_a_bad_schema_is_refused_before_anything_is_asked(stub: ModelStub) -> None:
    for schema in ({"type": "objekt"}, {"type": "array"}, {"type": "object", "properties": 1}):
        with pytest.raises(UsageError, match="`schema`"):
            ask(stub, MODELS[0], schema)
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    with pytest.raises(UsageError, match="recursive"):
        ask(stub, MODELS[0], {**node, "$defs": {"node": node}})
    assert stub.requests == []


@pytest.mark.parametrize(
    ("model", "environ", "match"),
    [
        ("openai:gpt-5", {}, "OPENAI_API_KEY"),
        ("anthropic:x", {"ANTHROPIC_API_KEY": ""}, "ANTHROPIC_API_KEY"),
        ("cohere:x", {}, "no model 'cohere:x'; say openai:MODEL"),
        ("openai:", {}, "no model"),
    ],
)
def test_what_is_missing_is_named(model: str, environ: dict[str, str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ModelBackend(model, environ=environ, timeout_s=1)


def test_a_server_of_ones_own_needs_no_key(stub: ModelStub) -> None:
    environ = {"OPENAI_BASE_URL": f"{stub.url}/v1"}
    assert asyncio.run(ModelBackend("openai:m", environ=environ, timeout_s=9).complete("x")).value == "stub"


def test_without_the_client_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sage-actors\[llm\]'"):
        ModelBackend("openai:gpt-5", environ={"OPENAI_API_KEY": "x"}, timeout_s=1)


def test_the_module_imports_no_client() -> None:
    code = (
        "import sys, sage_actors.actors.agents.backends, sage_actors.actors.agents.model_backend\n"
        "import sage_actors.actors.operations.agent\n"
        "loaded = {'pydantic_ai', 'openai', 'anthropic', 'httpx', 'jsonschema', 'mcp'} & sys.modules.keys()\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": "src"})
