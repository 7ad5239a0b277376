"""`.mcp.json`: what is read from it, how it is wrong, and what a consent to a server covers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.actors.mcp.config import ServerEntry, expand, load_servers
from sage_actors.messages.errors import DefinitionError


def write(project: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (project / ".mcp.json").write_text(text)


def load(project: Path, environ: dict[str, str] | None = None, **servers: Any) -> dict[str, ServerEntry]:
    write(project, {"mcpServers": servers})
    return load_servers(project, environ or {})


def problems(project: Path, raw: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        load(project, server=raw)["server"].check()
    return str(caught.value)


def test_a_project_without_the_file_has_no_servers(tmp_path: Path) -> None:
    assert load_servers(tmp_path) == {}


def test_stdio_and_http_servers_are_read(tmp_path: Path) -> None:
    servers = load(
        tmp_path,
        files={"command": "npx", "args": ["-y", "files", "."], "env": {"A": "b"}, "cwd": "sub"},
        web={"type": "http", "url": "https://example.org/mcp", "headers": {"X-Key": "k"}, "timeout": 2500},
        old={"type": "sse", "url": "http://127.0.0.1:1/sse", "request_timeout_ms": 10, "timeout": 99},
        short={"url": "https://example.org/mcp"},
        editor={"type": "streamable-http", "url": "http://localhost:80/mcp"},
    )
    for entry in servers.values():
        entry.check()
    assert (servers["files"].command, servers["files"].args) == ("npx", ("-y", "files", "."))
    assert servers["files"].directory == tmp_path / "sub"
    assert (servers["web"].headers, servers["web"].timeout_s) == ({"X-Key": "k"}, 2.5)
    assert servers["old"].timeout_s == 0.01
    assert [each.transport for each in servers.values()] == ["stdio", "http", "sse", "http", "http"]


def test_the_state_key_is_not_among_what_a_server_is_said_to_get(tmp_path: Path) -> None:
    entry = load(tmp_path, server={"command": "x", "env": {"A": "${SAGE_STATE_KEY}", "B": "${B}"}})["server"]
    assert entry.variables == ("B",)
    assert entry.trust_item().description == "x (sets A, B); is given your $B"


def test_a_disabled_server_is_known_and_may_not_start(tmp_path: Path) -> None:
    entry = load(tmp_path, server={"command": "x", "disabled": True})["server"]
    assert (entry.disabled, entry.may_start) == (True, False)
    entry.check()


def test_fields_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    entry = load(tmp_path, server={"command": "x", "alwaysLoad": True, "disabled": ["a"]})["server"]
    entry.check()
    assert entry.written["alwaysLoad"] is True


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / ".mcp.json").write_bytes(b'\xef\xbb\xbf{"mcpServers": {"a": {"command": "b"}}}')
    assert load_servers(tmp_path)["a"].command == "b"


# Variables


@pytest.mark.parametrize(
    ("text", "value", "unset"),
    [
        ("${SET}", "value", []),
        ("a${SET}b${SET}", "avaluebvalue", []),
        ("${NOT}", "${NOT}", ["NOT"]),
        ("${NOT:-default}", "default", []),
        ("${NOT:-}", "", []),
        ("${EMPTY:-default}", "default", []),
        ("${EMPTY}", "", []),
        ("$SET", "$SET", []),
        ("${SET", "${SET", []),
        ("${1X}", "${1X}", []),
        ("${NESTED}", "${SET}", []),
        ("${SAGE_STATE_KEY}", "${SAGE_STATE_KEY}", ["SAGE_STATE_KEY"]),
    ],
)
def test_variables_expand_as_in_other_readers_of_the_file(text: str, value: str, unset: list[str]) -> None:
    environ = {"SET": "value", "EMPTY": "", "NESTED": "${SET}", "SAGE_STATE_KEY": "secret"}
    assert expand(text, environ) == (value, unset)


@given(st.text())
def test_any_text_without_a_dollar_stays_as_it_is(text: str) -> None:
    plain = text.replace("$", "")
    assert expand(plain, {"A": "b"}) == (plain, [])


def test_only_the_fields_that_say_so_expand(tmp_path: Path) -> None:
    raw = {"command": "${V}", "args": ["${V}"], "env": {"${V}": "${V}", "W": "${U}"}, "cwd": "${V}"}
    entry = load(tmp_path, {"V": "v"}, server=raw)["server"]
    assert (entry.command, entry.args, dict(entry.env)) == ("v", ("v",), {"${V}": "v", "W": "${U}"})
    assert (entry.cwd, entry.unset) == ("${V}", ("U",))
    http = load(tmp_path, {"V": "v"}, server={"url": "https://${V}/mcp", "headers": {"K": "${V}"}})["server"]
    assert (http.url, http.headers) == ("https://v/mcp", {"K": "v"})


# What is wrong


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "line 1: is not JSON"),
        ('{"mcpServers": {\n"a": }', "line 2: is not JSON"),
        ("[]", "must be an object"),
        ('{"servers": {}}', "VS Code"),
        ('{"mcpServers": []}', "`mcpServers` must be an object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, content: str, text: str) -> None:
    write(tmp_path, content)
    with pytest.raises(DefinitionError, match=r"\.mcp\.json") as caught:
        load_servers(tmp_path)
    assert text in str(caught.value)


@pytest.mark.parametrize("kind", ["fifo", "directory", "latin-1", "unreadable"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ".mcp.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "latin-1":
        path.write_bytes(b'{"mcpServers": {"\xe4": {}}}')
    else:
        path.symlink_to(path)
    with pytest.raises(DefinitionError, match=r"\.mcp\.json"):
        load_servers(tmp_path)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("npx files", "mcpServers.server: must be an object, not a text"),
        ({}, "mcpServers.server.command: is missing"),
        ({"type": "http"}, "mcpServers.server.url: is missing"),
        ({"type": "ws", "url": "ws://x"}, "'ws' is not known (use stdio, http or sse)"),
        ({"command": 5}, "mcpServers.server.command: must be a text, not a number"),
        ({"command": "a", "args": "b c"}, "mcpServers.server.args: must be a list of texts"),
        ({"command": "a", "args": [1]}, "mcpServers.server.args: must be a list of texts"),
        ({"command": "a", "env": {"PORT": 80}}, "in quotes"),
        ({"command": "a", "env": {"": "x"}}, "cannot be a name"),
        ({"command": "a", "timeout": "60s"}, "milliseconds"),
        ({"command": "a", "timeout": -1}, "milliseconds"),
        ({"command": "a\0b"}, "must be a text"),
        ({"url": "http://example.org/mcp"}, "unencrypted"),
        ({"url": "http://localhost.evil.org/mcp"}, "unencrypted"),
        ({"url": "ftp://example.org"}, "no address of an HTTP server"),
        ({"url": "https://[::1"}, "is no address"),
        ({"url": "https://host:port/"}, "is no address"),
    ],
)
def test_what_is_wrong_with_a_server_names_file_server_and_field(tmp_path: Path, raw: Any, text: str) -> None:
    told = problems(tmp_path, raw)
    assert text in told
    assert str(tmp_path / ".mcp.json") in told


def test_all_problems_of_a_server_are_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, {"command": 1, "args": 2, "env": 3, "timeout": True})
    assert "4 problems" in told


def test_a_bad_server_does_not_keep_others_from_being_used(tmp_path: Path) -> None:
    servers = load(tmp_path, bad={"type": "ws"}, good={"command": "x"})
    servers["good"].check()


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: (
    st.lists(inner) | st.dictionaries(st.sampled_from(["type", "command", "args", "env", "url", "x"]), inner)
)))  # fmt: skip
def test_whatever_an_entry_holds_it_is_read_or_refused(raw: Any) -> None:
    from sage_actors.actors.mcp.config import _entry

    entry = _entry("server", json.loads(json.dumps(raw)), Path("/project"), {})
    assert entry.problems or entry.command or entry.url


# Consent


def test_the_digest_is_of_the_entry_as_written(tmp_path: Path) -> None:
    raw = {"command": "x", "args": ["${V}"], "other": 1}
    first = load(tmp_path, {"V": "1"}, server=raw)["server"].trust_item()
    assert first == load(tmp_path, {"V": "2"}, server=raw)["server"].trust_item()
    for changed in ({**raw, "other": 2}, {**raw, "args": []}, {**raw, "env": {"A": "b"}}):
        assert load(tmp_path, server=changed)["server"].trust_item().digest != first.digest


def test_a_description_shows_the_command_and_no_values_of_variables(tmp_path: Path) -> None:
    raw = {"command": "npx", "args": ["-y", "${PACKAGE}"], "env": {"TOKEN": "secret"}}
    item = load(tmp_path, {"PACKAGE": "evil"}, server=raw)["server"].trust_item()
    assert (item.kind, item.name) == ("mcp-server", "server")
    assert item.description == "npx -y ${PACKAGE} (sets TOKEN); is given your $PACKAGE"


@pytest.mark.parametrize(
    "raw",
    [
        {"url": "https://host/mcp", "headers": {"X-Key": "Bearer ${AWS_SECRET_ACCESS_KEY}"}},
        {"command": "x", "args": ["-" * 5000], "env": {"PLAIN": "${AWS_SECRET_ACCESS_KEY:-none}"}},
    ],
)
def test_a_description_names_the_users_variables_that_would_be_handed_over(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    assert "your $AWS_SECRET_ACCESS_KEY" in load(tmp_path, server=raw)["server"].trust_item().description


def test_what_a_description_leaves_out_is_said(tmp_path: Path) -> None:
    item = load(tmp_path, server={"command": "sh", "args": ["-c", "true;" * 200 + "evil"]})[
        "server"
    ].trust_item()
    assert "more characters" in item.description


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_a_problem_of_the_file(tmp_path: Path, number: str) -> None:
    (tmp_path / ".mcp.json").write_text(f'{{"mcpServers": {{"s": {{"command": "x", "timeout": {number}}}}}}}')
    with pytest.raises(DefinitionError, match="no JSON number"):
        load_servers(tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        {"command": "python", "args": ["server.py"]},
        {"command": "python", "args": ["./server.py", "--verbose"]},
        {"command": "python", "args": ["${NOT:-server.py}"]},
        {"command": "node", "args": ["--require=server.py"]},
        {"command": "python", "args": ["../server.py"], "cwd": "sub"},
        {"command": "./server.py"},
        {"command": "python", "args": ["link.py"]},
    ],
)
def test_a_changed_script_asks_again(tmp_path: Path, raw: dict[str, Any]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "server.py").write_text("one")
    (tmp_path / "link.py").symlink_to("server.py")
    before = load(tmp_path, server=raw)["server"].trust_item()
    assert load(tmp_path, server=raw)["server"].trust_item() == before
    (tmp_path / "server.py").write_text("two")
    assert load(tmp_path, server=raw)["server"].trust_item().digest != before.digest


def test_a_script_named_by_its_whole_path_counts_also_through_a_link_to_the_project(tmp_path: Path) -> None:
    project = tmp_path / "real"
    project.mkdir()
    (tmp_path / "link").symlink_to("real")
    script = project / "server"
    script.write_text("#!/bin/sh\n")
    raw = {"command": str(script)}
    before = load(tmp_path / "link", server=raw)["server"].trust_item().digest
    script.write_text("#!/bin/sh\nevil\n")
    assert load(tmp_path / "link", server=raw)["server"].trust_item().digest != before


def test_data_that_a_server_writes_to_does_not_ask_again(tmp_path: Path) -> None:
    data = tmp_path / "notes.sqlite"
    data.write_bytes(b"one")
    raw = {"command": "notes", "args": ["--database", "notes.sqlite"]}
    before = load(tmp_path, server=raw)["server"].trust_item()
    data.write_bytes(b"two")
    assert load(tmp_path, server=raw)["server"].trust_item() == before


def test_an_argument_that_is_no_path_is_no_problem(tmp_path: Path) -> None:
    raw = {"command": "x", "args": ["a" * 10_000, "\udcff", "https://x/y", ".", "", "="]}
    assert load(tmp_path, server=raw)["server"].trust_item().digest
