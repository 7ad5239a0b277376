"""Consent: what needs it, what does not, and that nothing starts without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_actors.actors.trust.consents import Item, TrustStore
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import DefinitionError, StorageError, UsageError
from sage_actors.supervisor.consent import obtain_consent, optional_items, required_items
from sage_actors.supervisor.definitions.loading import load_dict

RESEARCH = {"id": "look", "type": "mcp", "server": "sage-research", "tool": "best_practices"}
SHELL = {"id": "make", "type": "shell", "command": "make it"}
CHECKS = {"id": "check", "type": "mcp", "server": "sage-implementation", "tool": "validation_run"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "project/.sage/templates").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "project"


def flow(*nodes: dict[str, Any]) -> WorkflowSpec:
    types = {"mcp", "shell", "python", "http", "agent", "skill", "wait", "workflow"}
    return load_dict({"name": "flow", "nodes": list(nodes)}, known_types=types)


def template(project: Path) -> Path:
    return project / ".sage/templates/flow.json"


def servers(project: Path, **entries: Any) -> None:
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": entries}))


def write_skill(project: Path, *, script: str | None = "echo") -> None:
    folder = project / ".sage/skills/notes"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text("---\nname: notes\ndescription: d\n---\n")
    if script is not None:
        (folder / "scripts").mkdir()
        (folder / "scripts/run.sh").write_text(script)


def shown(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for item in items]


@pytest.mark.requirement("ORCH-012")
def test_a_template_of_built_in_servers_alone_needs_no_consent(project: Path) -> None:
    assert required_items(flow(RESEARCH, CHECKS), project, template(project)) == []


@pytest.mark.parametrize(
    "node",
    [
        SHELL,
        {"id": "n", "type": "python", "call": "steps:run"},
        {"id": "n", "type": "http", "url": "https://host/"},
        {"id": "n", "type": "agent", "prompt": "do it"},
        {"id": "n", "type": "workflow", "definition": {"name": "inner", "nodes": [SHELL]}},
    ],
    ids=["shell", "python", "http", "agent", "inside"],
)
def test_a_template_of_the_project_that_executes_something_needs_consent(
    project: Path, node: dict[str, Any]
) -> None:
    (item,) = required_items(flow(RESEARCH, node), project, template(project))
    assert (item.kind, item.name) == ("template", "flow")
    assert required_items(flow(RESEARCH, node), project, None) == []  # a file that the user names
    assert required_items(flow(RESEARCH, node), project, Path("/elsewhere/flow.json")) == []


def test_what_would_run_is_shown_and_cannot_drive_a_terminal(project: Path) -> None:
    node = {**SHELL, "command": "make\x1b[2J it\nnow\u202e"}
    (item,) = required_items(flow(node), project, template(project))
    assert str(item) == "template flow: executes shell make [2J it now"


def test_an_operation_that_would_not_be_confined_is_shown_as_such(project: Path) -> None:
    (item,) = required_items(flow({**SHELL, "sandbox": "trusted"}), project, template(project))
    assert item.description == "executes shell make it (not confined)"
    (confined,) = required_items(flow(SHELL), project, template(project))
    assert confined.digest != item.digest


def test_what_is_not_shown_of_a_template_is_said(project: Path) -> None:
    long = {**SHELL, "command": "x" * 1000}
    (item,) = required_items(flow(long), project, template(project))
    assert item.description.endswith("… (706 more characters)")
    many = [{**SHELL, "id": f"n{number}", "command": f"echo {number}"} for number in range(25)]
    (item,) = required_items(flow(*many), project, template(project))
    assert item.description.endswith("shell echo 19, and 5 more")


def test_a_changed_command_is_another_item(project: Path) -> None:
    before = required_items(flow(SHELL), project, template(project))
    after = required_items(flow({**SHELL, "command": "make that"}), project, template(project))
    assert before[0].digest != after[0].digest


@pytest.mark.requirement("ORCH-023")
@pytest.mark.parametrize(
    ("node", "file"),
    [
        ({**SHELL, "command": "cd sub && ../deploy.sh; ./deploy.sh"}, "deploy.sh"),
        ({**SHELL, "command": ["python3", "steps.py"]}, "steps.py"),
        ({**SHELL, "command": ["./deploy.sh"], "cwd": "sub"}, "sub/deploy.sh"),
        ({**SHELL, "command": "make it"}, "Makefile"),
        ({"id": "n", "type": "python", "call": "steps:run"}, "steps.py"),
        ({"id": "n", "type": "python", "call": "local:run"}, ".sage/templates/local.py"),
        ({"id": "n", "type": "workflow", "definition": {"name": "i", "nodes": [SHELL]}}, "Makefile"),
    ],
)
def test_what_a_template_executes_counts_by_content(project: Path, node: dict[str, Any], file: str) -> None:
    (project / "sub").mkdir()
    (project / file).write_text("one")
    (before,) = required_items(flow(node), project, template(project))
    assert file in before.description
    (project / file).write_text("two")
    (after,) = required_items(flow(node), project, template(project))
    assert after.digest != before.digest


def test_servers_of_the_project_are_asked_for_where_they_are_used(project: Path) -> None:
    servers(project, files={"command": "files"}, other={"command": "other"})
    use = {"id": "n", "type": "mcp", "server": "files", "tool": "read"}
    assert required_items(flow(RESEARCH), project) == []
    assert shown(required_items(flow(use), project)) == [("mcp-server", "files")]
    inner = {"id": "w", "type": "workflow", "definition": {"name": "inner", "nodes": [use]}}
    assert shown(required_items(flow(inner), project)) == [("mcp-server", "files")]


def test_a_server_in_a_built_in_ones_place_is_asked_for_and_never_needed(project: Path) -> None:
    servers(project, **{"sage-research": {"command": "anything"}})
    assert required_items(flow(RESEARCH), project) == []
    assert shown(optional_items(flow(RESEARCH), project)) == [("mcp-server", "sage-research")]


def test_consent_is_not_asked_for_what_cannot_start(project: Path) -> None:
    servers(project, ok=5, off={"command": "x", "disabled": True}, **{"sage-research": {"type": "ws"}})
    uses = ({"id": name, "type": "mcp", "server": name, "tool": "x"} for name in ("ok", "off"))
    spec = flow(RESEARCH, *uses)
    assert required_items(spec, project) == []
    assert optional_items(spec, project) == []


def test_a_server_that_is_known_only_at_run_time_may_be_any_of_them(project: Path) -> None:
    servers(project, one={"command": "one"}, two={"command": "two"})
    spec = load_dict(
        {
            "name": "flow",
            "inputs": {"which": {}},
            "nodes": [{"id": "n", "type": "mcp", "server": "${inputs.which}", "tool": "read"}],
        },
        known_types={"mcp"},
    )
    assert shown(required_items(spec, project)) == [("mcp-server", "one"), ("mcp-server", "two")]


def test_a_file_of_servers_that_cannot_be_read_is_an_error(project: Path) -> None:
    (project / ".mcp.json").write_text("{")
    with pytest.raises(DefinitionError, match="not JSON"):
        required_items(flow(RESEARCH), project)
    assert required_items(flow(SHELL), project) == []


def test_skills_are_asked_for_where_their_scripts_run(project: Path) -> None:
    write_skill(project)
    execute = {"id": "n", "type": "skill", "skill": "notes"}
    assert shown(required_items(flow(execute), project)) == [("skill", "notes")]
    assert required_items(flow({**execute, "instructions": True}), project) == []


def test_a_skill_without_scripts_needs_no_consent_and_a_missing_one_is_an_error(project: Path) -> None:
    write_skill(project, script=None)
    assert required_items(flow({"id": "n", "type": "skill", "skill": "notes"}), project) == []
    with pytest.raises(UsageError, match="no skill 'other'"):
        required_items(flow({"id": "n", "type": "skill", "skill": "other"}), project)


@pytest.mark.requirement("ORCH-023")
def test_settings_of_the_project_that_widen_the_sandbox_are_asked_for(project: Path) -> None:
    config = project / ".sage/config.toml"
    config.write_text('[sandbox]\nhide = [".env"]\n')
    assert required_items(flow(RESEARCH), project) == []
    config.write_text('[sandbox]\nnetwork = ["api.example.com:443"]\nread = ["/srv"]\n')
    (before,) = required_items(flow(RESEARCH), project)
    assert before.kind == "sandbox"
    assert "network api.example.com:443; read /srv" in before.description
    config.write_text('[sandbox]\nnetwork = ["api.example.com:443", "*.com:443"]\nread = ["/srv"]\n')
    (after,) = required_items(flow(RESEARCH), project)
    assert after.digest != before.digest


@pytest.mark.requirement("ORCH-023")
def test_a_link_that_leads_elsewhere_than_at_consent_asks_again(project: Path) -> None:
    """Else a folder of the project could become the user's keys once it may be read."""
    (project / "data").mkdir()
    (project / ".sage/config.toml").write_text('[sandbox]\nread = ["data"]\n')
    (before,) = required_items(flow(RESEARCH), project)
    (project / "data").rmdir()
    (project / "data").symlink_to("../home")
    (after,) = required_items(flow(RESEARCH), project)
    assert str(project.parent / "home") in after.description
    assert after.digest != before.digest


def test_the_projects_checks_are_optional(project: Path) -> None:
    assert optional_items(flow(RESEARCH), project) == []
    assert shown(optional_items(flow(RESEARCH, CHECKS), project)) == [("checks", "checks")]
    agent = {"id": "n", "type": "agent", "prompt": "do it", "checks": True}
    assert shown(optional_items(flow(agent), project)) == [("checks", "checks")]
    assert optional_items(flow({**agent, "checks": ["make test"]}), project) == []


def test_nothing_starts_without_consent_and_the_error_lists_all(project: Path) -> None:
    servers(project, files={"command": "run-files"})
    use = {"id": "n", "type": "mcp", "server": "files", "tool": "read"}
    needed = required_items(flow(SHELL, use), project, template(project))
    with pytest.raises(UsageError, match="--trust") as raised:
        obtain_consent(needed, [], project)
    assert "shell make it" in str(raised.value)
    assert "run-files" in str(raised.value)


def test_trust_consents_to_all_and_is_recorded(project: Path) -> None:
    needed = required_items(flow(SHELL), project, template(project))
    wanted = optional_items(flow(CHECKS), project)
    given = obtain_consent(needed, wanted, project, trust=True)
    assert given.given == (*needed, *wanted)
    again = obtain_consent(needed, wanted, project)
    assert (again.given, again.refused) == ((), ())


def test_without_consent_checks_are_left_out_and_the_run_goes_on(project: Path) -> None:
    wanted = optional_items(flow(CHECKS), project)
    assert obtain_consent([], wanted, project).refused == tuple(wanted)


def test_a_person_is_asked_item_by_item(project: Path) -> None:
    needed = required_items(flow(SHELL), project, template(project))
    wanted = optional_items(flow(CHECKS), project)
    asked: list[tuple[str, bool]] = []

    def ask(item: Item, is_needed: bool) -> bool:
        asked.append((item.kind, is_needed))
        return is_needed

    consent = obtain_consent(needed, wanted, project, ask=ask)
    assert asked == [("template", True), ("checks", False)]
    assert (consent.given, consent.refused) == (tuple(needed), tuple(wanted))
    assert TrustStore().missing(project, [*needed, *wanted]) == wanted


def test_a_required_item_that_a_person_refuses_stops_the_run_and_records_nothing(project: Path) -> None:
    needed = required_items(flow(SHELL), project, template(project))
    other = Item("mcp-server", "files", "0" * 64, "files")
    with pytest.raises(UsageError, match="mcp-server files") as raised:
        obtain_consent([*needed, other], [], project, ask=lambda item, _: item.kind == "template")
    assert "shell" not in str(raised.value)
    assert TrustStore().missing(project, needed) == needed


def test_a_damaged_file_of_consents_is_named_when_it_is_the_reason(project: Path) -> None:
    needed = required_items(flow(SHELL), project, template(project))
    obtain_consent(needed, [], project, trust=True)
    TrustStore()._where().write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        obtain_consent(needed, [], project)


def test_consent_that_cannot_be_recorded_is_not_given(project: Path) -> None:
    def fail(_: object) -> None:
        raise StorageError("the disk is full")

    (item,) = required_items(flow(SHELL), project, template(project))
    with pytest.raises(StorageError):
        obtain_consent([item], [], project, trust=True, record=fail)
    assert not TrustStore().trusts(project, item)
