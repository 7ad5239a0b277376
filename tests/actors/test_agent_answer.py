"""What agents print, read: the real formats, their drift, and what they say when they fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.actors.agents.answer import AgentFailed, parse_events, read_answer
from sage_actors.actors.agents.table import find_agent
from sage_actors.actors.operations.command import CommandOutput

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def read(name: str, stdout: str, *, stderr: str = "", exit_code: int = 0, schema: Any = None) -> Any:
    return read_answer(name, find_agent(name), CommandOutput(exit_code, stdout, stderr), schema)


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


MESSAGE = {"type": "item.completed", "item": {"type": "agent_message", "text": "hello"}}


def test_an_older_vocabulary_and_unknown_events_are_read_all_the_same() -> None:
    old = {"type": "item.completed", "item": {"item_type": "agent_message", "text": "hello"}}
    answer = read("codex", "Reading prompt from stdin...\n" + lines({"type": "dance"}, {"no": "type"}, old))
    assert answer.text == "hello"
    assert answer.events == {"dance": 1, "?": 1, "item.completed": 1}
    assert answer.usage.input_tokens == 0


def test_the_last_message_is_the_answer_and_usage_of_all_turns_counts() -> None:
    turn = {"type": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 2}}
    last = {"type": "item.completed", "item": {"type": "agent_message", "text": "final"}}
    answer = read("codex", lines(MESSAGE, turn, last, turn))
    assert (answer.text, answer.usage.input_tokens, answer.usage.output_tokens) == ("final", 20, 4)


def test_fields_of_another_type_are_no_numbers() -> None:
    usage = {"input_tokens": "many", "output_tokens": [1, True, None, -5, {"x": 2}]}
    answer = read("codex", lines(MESSAGE, {"type": "turn.completed", "usage": usage}))
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (0, 1)


def test_an_error_with_exit_code_0_is_a_failure_in_the_agents_words() -> None:
    result = {"type": "result", "subtype": "success", "is_error": True, "result": "API Error: 529 overloaded"}
    result["usage"] = {"input_tokens": 7}
    with pytest.raises(AgentFailed, match="agent claude failed: API Error: 529 overloaded") as caught:
        read("claude", lines(result))
    assert caught.value.retryable is True
    assert caught.value.usage.input_tokens == 7


@pytest.mark.parametrize(
    ("name", "stdout", "exit_code"),
    [
        ("claude", lines({"type": "result", "subtype": "error_max_turns", "is_error": True}), 1),
        (
            "claude",
            lines({"type": "result", "is_error": True, "result": "Invalid API key · Please run /login"}),
            0,
        ),
        ("codex", lines({"type": "turn.failed", "error": {"message": "401 Unauthorized"}}), 1),
        ("gemini", "", 42),
    ],
)
def test_what_a_repeat_cannot_help_is_not_retried(name: str, stdout: str, exit_code: int) -> None:
    with pytest.raises(AgentFailed) as caught:
        read(name, stdout, exit_code=exit_code)
    assert caught.value.retryable is False
    assert caught.value.details["exit_code"] == exit_code


def test_a_lost_connection_that_was_made_again_is_no_failure() -> None:
    lost = {"type": "error", "message": "Reconnecting... 1/5"}
    done = {"type": "turn.completed", "usage": {}}
    assert read("codex", lines(lost, MESSAGE, done)).text == "hello"
    with pytest.raises(AgentFailed, match="Reconnecting"):
        read("codex", lines(lost), exit_code=1)


def test_an_error_document_on_the_other_stream_is_found() -> None:
    document = json.dumps({"error": {"type": "ApiError", "message": "quota exceeded"}}, indent=2)
    with pytest.raises(AgentFailed, match="gemini failed: quota exceeded"):
        read("gemini", "", stderr=f"Loaded credentials.\n{document}\n", exit_code=1)


@pytest.mark.parametrize(
    ("stdout", "stderr", "match"),
    [
        ("", "", "printed nothing that can be read$"),
        ("<html>Bad gateway</html>", "", "printed nothing that can be read: <html>"),
        ('{"type":"result","resu', "killed", "printed nothing that can be read: killed"),
        ('{"type":"result"}', "", "gave no answer"),
        ('{"type":"result","result":""}', "", "gave no answer"),
        ('{"type":"result","result":{"a":1}}', "", "gave no answer"),
        ("[" * 100_000, "", "printed nothing"),
    ],
)
def test_no_answer_is_a_failure(stdout: str, stderr: str, match: str) -> None:
    with pytest.raises(AgentFailed, match=match):
        read("claude", stdout, stderr=stderr)


def test_a_signal_and_the_last_words_are_said() -> None:
    with pytest.raises(AgentFailed, match="ended with signal 9: out of memory"):
        read("claude", "", stderr="a\nout of memory\n", exit_code=-9)


def test_a_verbose_agent_prints_a_list_of_events() -> None:
    events = [{"type": "system"}, {"type": "result", "result": "hello", "session_id": "s1"}]
    answer = read("claude", json.dumps(events))
    assert (answer.text, answer.session) == ("hello", "s1")


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1}',
        'Sure.\n```json\n{"n": 0, "draft": true}\n```\nBetter:\n```json\n{"n": 1}\n```\nDone.',
        'Sure:\n{"n": 1}\nThat is all.',
        '```\n{"n": 1}\n```',
        'Use {braces}:\n{"broken": \n{"n": 1}',
    ],
)
def test_an_object_is_found_in_what_was_said(text: str) -> None:
    assert read("gemini", json.dumps({"response": text}), schema=SCHEMA).value == {"n": 1}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("no object here", "gave no JSON object"),
        ('{"n": "one"}', r"schema does not allow: \$\.n"),
        ("[1]", "no JSON"),
    ],
)
def test_an_answer_that_is_none_of_the_schema_is_a_failure(text: str, match: str) -> None:
    with pytest.raises(AgentFailed, match=match):
        read("gemini", json.dumps({"response": text}), schema=SCHEMA)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["type", "item", "usage", "error", "result", "part", "tokens", "text", "response", "stats"]), x
), max_leaves=20))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_document_breaks_the_reader(document: Any) -> None:
    for name in ("claude", "codex", "gemini", "opencode"):
        try:
            read(name, json.dumps(document))
        except AgentFailed:
            pass


def test_a_line_that_is_no_json_is_no_event() -> None:
    assert parse_events('{"a": 1}\n{"b": \nnoise {"c": 2}\n[1]\n"x"\n{"d": 4}') == [{"a": 1}, {"d": 4}]


def test_the_numbers_in_a_text_are_added_up() -> None:
    stdout = (
        "done\nTokens: 2.4k sent, 1,024 received. Cost: $0.01 message, $0.01 session.\n"
        "Tokens: 1.5M sent, 2k cache write, 6 received.\n"
    )
    used = read("aider", stdout).usage
    assert (used.input_tokens, used.output_tokens, used.cost) == (1_502_400, 1030, 0.01)
