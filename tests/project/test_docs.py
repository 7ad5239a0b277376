"""The documentation says what the code does: names, options, defaults, exit codes; its examples are valid."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import click
import pytest
import yaml
from places import ROOT
from pydantic import BaseModel

import sage_actors
from sage_actors.actors.agents import answer as agent_answer
from sage_actors.actors.agents import model_backend, worktree
from sage_actors.actors.agents.table import built_in_agents
from sage_actors.actors.breaker.policy import BreakerPolicy
from sage_actors.actors.mcp import errors as mcp_errors
from sage_actors.messages import errors, schema
from sage_actors.messages.errors import SageError
from sage_actors.messages.events import Event
from sage_actors.supervisor.cli.main import cli
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.definitions.source import parse_yaml
from sage_actors.supervisor.definitions.validation import AVAILABLE_TYPES

GUIDES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *GUIDES, EXAMPLES / "README.md"]
SHARED = {"--project", "--json"}
# Of other programs, of the benchmarks, and of /sage.workflow
FOREIGN = {"--sandbox", "--print", "--template", "--list", "--temporal"}
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(*languages: str) -> Iterator[Any]:
    """Fenced blocks of all pages."""
    for page in PAGES:
        for number, match in enumerate(_FENCE.finditer(page.read_text(encoding="utf-8"))):
            if match[1] in languages:
                name = page.relative_to(ROOT).as_posix().replace("/", "-")
                yield pytest.param(match[1], match[2], id=f"{name}-{number}")


def section(page: str, title: str) -> str:
    """The text under a heading, without that of headings of its own or a higher level."""
    text = _FENCE.sub(lambda match: match[0].replace("\n#", "\n "), read(page))
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title!r}"
    return found[2]


def rows(text: str) -> Iterator[list[str]]:
    """The rows of Markdown tables, heads included."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def commands() -> Iterator[tuple[str, click.Command]]:
    with click.Context(cli) as ctx:
        for name in cli.list_commands(ctx):
            command = cli.get_command(ctx, name)
            assert command is not None
            yield name, command
            for inner in getattr(command, "commands", {}).values():
                yield f"{name} {inner.name}", inner


def options(command: click.Command) -> set[str]:
    return {each for one in command.params if isinstance(one, click.Option) for each in one.opts}


def all_errors(kind: type[SageError] = SageError) -> Iterator[type[SageError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from all_errors(each)


# ------------------------------------------------------------------ examples


def _workflow(data: Any) -> dict[str, Any] | None:
    """A block as a whole workflow: it is one, or a list of nodes that stands for one."""
    if isinstance(data, dict) and {"phases", "nodes"} & data.keys():
        return data
    if isinstance(data, list) and all(isinstance(each, dict) and "type" in each for each in data):
        return {"name": "example", "inputs": {"topic": {"type": "string"}}, "nodes": data}
    return None


@pytest.mark.parametrize(("language", "text"), list(blocks("yaml")))
def test_every_yaml_block_is_a_valid_workflow(language: str, text: str) -> None:
    workflow = _workflow(parse_yaml(text)[0])
    assert workflow is not None
    load_dict(workflow)


@pytest.mark.parametrize(("language", "text"), list(blocks("json")))
def test_every_json_block_is_a_valid_workflow_or_events(language: str, text: str) -> None:
    if text.lstrip().startswith('{"event"'):
        for line in text.splitlines():
            assert {"event", "run_id", "time"} <= json.loads(line).keys()
        return
    workflow = _workflow(json.loads(text))
    assert workflow is not None
    load_dict(workflow)


@pytest.mark.parametrize(("language", "text"), list(blocks("python")))
def test_every_python_block_compiles_and_imports_names_that_exist(language: str, text: str) -> None:
    compile(text, "block", "exec")
    for names in re.findall(r"^from sage_actors import (.+)$", text, re.MULTILINE):
        assert {name.strip() for name in names.split(",")} <= set(sage_actors.__all__)


def programs() -> Iterator[Any]:
    """Whole programs with what the page says that they print, which follows at once."""
    for page in PAGES:
        found = list(_FENCE.finditer(page.read_text(encoding="utf-8")))
        for block, shown in itertools.pairwise(found):
            if (
                block[1] == "python"
                and "__main__" in block[2]
                and not shown[1]
                and "pieces of" not in shown[2]
            ):
                yield pytest.param(block[2], shown[2], id=f"{page.stem}-{block[2].count(chr(10))}")


@pytest.mark.parametrize(("program", "shown"), list(programs()))
def test_every_program_prints_what_the_page_says(program: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == re.sub(r"\A\$ .*\n", "", shown), done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_internal_link_resolves(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in _HEADING.findall(text)}


# ------------------------------------------------------------------ the command line


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_every_command_and_each_of_its_options_is_described(name: str, command: click.Command) -> None:
    text = section("docs/command-line.md", name.split()[0])
    assert f"sage-actors {name}" in read("docs/command-line.md")
    described = set(re.findall(r"(?<![\w-])(-{1,2}[a-z][a-z-]*)", text)) | SHARED
    assert options(command) <= described


def test_no_option_is_described_that_does_not_exist() -> None:
    known = {each for _, command in commands() for each in options(command)} | {"--help", "-h", "--version"}
    for page in ("README.md", *(f"docs/{each.name}" for each in GUIDES)):
        said = set(
            re.findall(
                r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"(?m)^.*(printf|git|pip|bench),? .*$", "", read(page))
            )
        )
        assert said <= known | FOREIGN, page


def test_every_command_that_a_page_shows_exists() -> None:
    known = {name for name, _ in commands()}
    groups = {name.split()[0] for name in known if " " in name}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for words in re.findall(r"(?:^|[`$|&] |`)sage-actors ([a-z]+(?: [a-z]+)?)", text, re.MULTILINE):
            first, _, second = words.partition(" ")
            assert first in known, f"{page.name}: sage-actors {words}"
            if first in groups - {"mcp"} and second:
                assert words in known, f"{page.name}: sage-actors {words}"


def test_every_variable_that_is_read_is_described() -> None:
    """But for those that only tests set, and what a skill's script gets."""
    sources = [each for part in ("actors", "supervisor", "servers") for each in (ROOT / part).rglob("*.py")]
    read_there = set(re.findall(r"\bSAGE_[A-Z_]+", "".join(each.read_text("utf-8") for each in sources)))
    said = set(re.findall(r"\bSAGE_[A-Z_]+", section("docs/command-line.md", "Environment variables")))
    given = set(re.findall(r"\bSAGE_[A-Z_]+", section("docs/workflows.md", "skill")))
    assert read_there - {"SAGE_FAULT", "SAGE_SERVERS"} == said | given


def test_the_shared_table_holds_only_what_is_shared() -> None:
    """An option in that table that few commands have would hide that their sections forgot it."""
    tree = dict(commands())
    for option in SHARED:
        assert option in section("docs/command-line.md", "Options that many commands take")
        assert sum(option in options(command) for command in tree.values()) > 10


def test_the_table_of_exit_codes_is_that_of_the_error_classes() -> None:
    said: dict[str, int] = {}
    for code, _, names in list(rows(section("docs/command-line.md", "Exit codes")))[1:]:
        for name in re.findall(r"`(\w+)`", names):
            assert name not in said
            said[name] = int(code)
    assert said == {each.__name__: each.exit_code for each in all_errors()}


def test_every_exit_code_is_explained() -> None:
    codes = {row[0].partition(",")[0] for row in rows(section("docs/troubleshooting.md", "By exit code"))}
    listed = {row[0] for row in list(rows(section("docs/command-line.md", "Exit codes")))[1:]}
    assert listed <= codes


@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.__name__)
def test_every_error_class_says_its_exit_code_and_code(error: type[SageError]) -> None:
    text = section("docs/troubleshooting.md", error.__name__)
    assert f"Exit code {error.exit_code}, code `{error.code}`." in text
    assert f"`{error.__name__}`" in read("docs/library.md") + section("docs/command-line.md", "Exit codes")


def test_every_event_has_a_row_and_an_example_line() -> None:
    text = section("docs/command-line.md", "Events of --json")
    names = set(re.findall(r"`(\w+)`", (Event.__doc__ or "").partition("time:")[0])) | {"run_status"}
    assert len(names) > 10
    for name in names:
        assert f"| `{name}` |" in text
        assert f'{{"event":"{name}"' in text


# ------------------------------------------------------------------ the file format

_MODELS: dict[str, type[BaseModel]] = {
    "Workflow": schema.WorkflowDefinition,
    "Inputs": schema.InputDefinition,
    "Phases": schema.PhaseDefinition,
    "Fields of every operation": schema.UntypedOperation,
    "retry": schema.RetryDefinition,
    "Limits, timeouts, endpoints": schema.LimitsDefinition,
    "python": schema.PythonOperation,
    "shell": schema.ShellOperation,
    "http": schema.HttpOperation,
    "approval": schema.ApprovalOperation,
    "wait": schema.WaitOperation,
    "workflow as a node": schema.WorkflowOperation,
    "mcp": schema.McpOperation,
    "agent": schema.AgentOperation,
    "skill": schema.SkillOperation,
}


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.get_default(call_default_factory=True))}`"


@pytest.mark.parametrize("title", _MODELS)
def test_every_field_is_described_with_its_default(title: str) -> None:
    model = _MODELS[title]
    own = model.model_fields
    if model in schema.OPERATIONS.values():
        common = {*schema.UntypedOperation.model_fields, "type"}
        own = {name: field for name, field in own.items() if name not in common}
    said = {row[0].strip("`"): row[1] for row in rows(section("docs/workflows.md", title)) if len(row) == 3}
    said.pop("field", None)
    wanted = {field.alias or name: _default(field) for name, field in own.items()}
    assert wanted.items() <= said.items()


@pytest.mark.parametrize("model", [schema.CacheDefinition, schema.DigestDefinition, schema.BudgetDefinition])
def test_every_field_that_saves_is_described_with_its_default(model: type[BaseModel]) -> None:
    said = [
        (row[0].strip("`"), row[1]) for row in rows(section("docs/workflows.md", "Cache, digest, budget"))
    ]
    for name, field in model.model_fields.items():
        assert (name, _default(field)) in said


def test_every_type_of_operation_has_a_section() -> None:
    assert set(schema.OPERATIONS) == AVAILABLE_TYPES | {"mcp", "agent", "skill"}
    listed = section("docs/workflows.md", "Operation types")
    assert all(f"`{name}`" in listed for name in schema.OPERATIONS)


# ------------------------------------------------------------------ the library


def test_every_public_name_is_mentioned() -> None:
    text = read("docs/library.md")
    missing = [name for name in sage_actors.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_every_field_of_a_breaker_policy_is_described_with_its_default() -> None:
    said = {row[0]: row[1] for row in rows(section("docs/library.md", "Breakers"))}
    for one in fields(BreakerPolicy):
        assert said[f"`{one.name}`"] == f"`{json.dumps(one.default)}`"


# ------------------------------------------------------------------ servers, agents, models


def _operation_errors() -> Iterator[type[SageError]]:
    for module in (mcp_errors, agent_answer, model_backend, worktree):
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, SageError) and one.__module__ == module.__name__:
                yield one


@pytest.mark.parametrize("error", list(_operation_errors()), ids=lambda error: error.__name__)
def test_every_error_of_a_server_an_agent_or_a_model_is_explained(error: type[SageError]) -> None:
    assert error.exit_code == 1
    assert f"Code `{error.code}`." in section("docs/troubleshooting.md", error.__name__)


def test_every_error_of_a_server_is_in_its_guide() -> None:
    said = {row[0].strip("`") for row in rows(section("docs/mcp-servers.md", "When it fails"))}
    assert {each.__name__ for each in _operation_errors() if each.__module__ == mcp_errors.__name__} <= said


async def _tools(server: Any) -> dict[str, set[str]]:
    """Arguments of each tool."""
    from mcp import Client

    async with Client(server) as client:
        return {each.name: set(each.input_schema["properties"]) for each in (await client.list_tools()).tools}


def test_every_tool_of_the_sage_servers_is_described_beside_its_server(tmp_path: Path) -> None:
    from sage_actors.servers.catalog import SAGE_SERVERS, create_server
    from sage_actors.servers.settings import ServerSettings

    said: dict[str, set[str]] = {}
    server = ""
    for cells in list(rows(section("docs/research.md", "The servers and their tools")))[1:]:
        server = cells[0].strip("`") or server
        said.setdefault(server, set()).update(re.findall(r"`(\w+)`", cells[1]))
    settings = ServerSettings(tmp_path)
    assert said == {
        name: set(anyio.run(_tools, create_server(name, settings)).keys()) for name in SAGE_SERVERS
    }


def test_every_tool_of_the_orchestration_server_is_described_with_its_arguments(tmp_path: Path) -> None:
    from sage_actors.servers.orchestration.server import create_orchestration_server

    said = {row[0].strip("`"): row[1] for row in rows(section("docs/agents.md", "Tools")) if len(row) == 3}
    said.pop("tool")
    tools = anyio.run(_tools, create_orchestration_server(tmp_path))
    assert said.keys() == tools.keys()
    for name, arguments in tools.items():
        assert all(f"`{each}`" in said[name] for each in arguments), name


def test_every_code_of_the_orchestration_server_is_described() -> None:
    text = section("docs/agents.md", "Errors") + read("docs/troubleshooting.md")
    for source in (ROOT / "servers/orchestration").glob("*.py"):
        for code in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', source.read_text(encoding="utf-8")):
            assert f"`{code}`" in text, code


def test_every_known_agent_is_named() -> None:
    for page in ("docs/models-and-agents.md", "docs/workflows.md"):
        assert all(f"`{name}`" in read(page) for name in built_in_agents())


# ------------------------------------------------------------------ the examples and the site


@pytest.mark.parametrize(
    "document", sorted(EXAMPLES.glob("*/*.md")), ids=lambda one: f"{one.parent.name}-{one.stem}"
)
def test_an_example_document_is_as_it_was_written(document: Path) -> None:
    """A document that anybody edited has another digest than the one at its end."""
    body, mark, digest = document.read_text(encoding="utf-8").rpartition("\n<!-- sage-actors sha256:")
    assert mark
    assert digest == f"{hashlib.sha256(body.encode()).hexdigest()} -->\n"
    assert f"{document.parent.name}/{document.name}" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_there_is_an_example_of_each_template() -> None:
    named = {each.name.partition("-")[0] for each in EXAMPLES.iterdir() if each.is_dir()}
    assert named == {each.stem for each in (ROOT / "templates").glob("*.json")}


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without what its tags would call."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _pages_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages_of(each)


def test_the_site_has_every_page() -> None:
    config = yaml.load(read("mkdocs.yml"), _Loader)
    there = {each.relative_to(ROOT / "docs").as_posix() for each in (ROOT / "docs").rglob("*.md")}
    assert set(_pages_of(config["nav"])) == there


def test_the_api_reference_names_what_exists() -> None:
    named = re.findall(r"^::: ([\w.]+)$", read("docs/api.md"), re.MULTILINE)
    assert len(named) > 10
    for path in named:
        module, _, name = path.rpartition(".")
        if path not in (
            "sage_actors.messages.errors",
            "sage_actors.messages.findings",
            "sage_actors.messages.backend",
        ):
            assert hasattr(importlib.import_module(module), name), path
        else:
            importlib.import_module(path)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "api" / "index.html").exists()
