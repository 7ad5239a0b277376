"""The three templates from end to end, as a user runs them, on repositories of three languages."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_harness import shell, wait_until
from sage_harness import (
    DOCUMENTS,
    FEATURE,
    PHASES,
    SageProject,
    SageRun,
    cited,
    documents,
    false_citations,
)
from sage_repositories import REPOSITORIES, go_router, python_client, typescript_api

from sage_actors import Supervisor, load
from sage_actors.actors.clock import SystemClock
from sage_actors.servers.catalog import SAGE_SERVERS
from sage_actors.supervisor.templates import find_template, load_workflow

pytestmark = [pytest.mark.slow, pytest.mark.requirement("ORCH-021")]

_ERRORS = {"python": python_client.ERROR, "go": go_router.ERROR, "typescript": typescript_api.ERROR}
_ASKED = {"feature": FEATURE, "enhancement": "error handling"}
_EACH = [(language, template) for language in REPOSITORIES for template in PHASES]
_DAY_S = 86_400.0


class Finished:
    """One repository in which each template ran once."""

    def __init__(self, home: Path, language: str) -> None:
        self.sage = SageProject(home, REPOSITORIES[language])
        self.head = self.sage.git("rev-parse", "HEAD")
        with self.sage.nothing_else_written():
            self.runs = {
                template: self.sage.run(template, _ASKED.get(template, _ERRORS[language])) for template in PHASES
            }

    def folder(self, template: str) -> str:
        """Where the documents of a run are, below docs/specs."""
        value = self.sage.history(self.runs[template].run_id).value("implementation/execute")
        return str(value["slug"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Finished]]:
    """All nine runs; two repositories at a time."""
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda each: Finished(tmp_path_factory.mktemp(each), each), REPOSITORIES)
    found = dict(zip(REPOSITORIES, made, strict=True))
    yield found
    for each in found.values():
        each.sage.close()


# ------------------------------------------------------------------ what a run leaves


@pytest.mark.requirement("ORCH-012")
@pytest.mark.requirement("ORCH-014")
@pytest.mark.parametrize(("language", "template"), _EACH)
def test_a_template_ends_with_three_documents_whose_citations_are_true(
    finished: dict[str, Finished], language: str, template: str
) -> None:
    done = finished[language]
    assert done.runs[template].end["status"] == "succeeded"
    folder = done.sage.project / "docs/specs" / done.folder(template)
    assert {path.name for path in folder.iterdir()} == DOCUMENTS
    for path in folder.iterdir():
        text = path.read_text()
        assert false_citations(done.sage.project, text) == [], path.name
        assert cited(text) >= 3, path.name
        assert "made by: \"sage-actors, without a model\"" in text


@pytest.mark.parametrize("language", REPOSITORIES)
def test_a_run_changes_nothing_but_its_documents(finished: dict[str, Finished], language: str) -> None:
    done = finished[language]
    expected = {f"docs/specs/{done.folder(template)}/{name}" for template in PHASES for name in DOCUMENTS}
    shown = {path for path in done.sage.changes() if not path.startswith(".sage/")}
    assert shown == expected
    assert not [line for line in done.sage.git("status", "--porcelain").splitlines() if ".sage" in line]
    assert done.sage.git("rev-parse", "HEAD") == done.head
    assert done.sage.git("stash", "list") == ""


@pytest.mark.parametrize("language", REPOSITORIES)
def test_the_first_suspect_of_a_bug_is_the_line_that_failed(
    finished: dict[str, Finished], language: str
) -> None:
    done = finished[language]
    spec = documents(done.sage.project)[f"{done.folder('bugfix')}/spec.md"]
    place = {"python": "src/parceltrack/client.py:47", "go": "router.go:59", "typescript": "src/server.ts:32"}
    suspects = spec.partition("## Suspects")[2].partition("\n## ")[0]
    assert place[language] in suspects.partition("\n2. ")[0]


def test_a_similar_fix_of_the_history_is_found(finished: dict[str, Finished]) -> None:
    done = finished["python"]
    spec = documents(done.sage.project)[f"{done.folder('bugfix')}/spec.md"]
    (commit,) = done.sage.git("log", "--format=%h", "--grep=KeyError").split()
    assert commit in spec


@pytest.mark.parametrize("language", REPOSITORIES)
def test_a_specification_of_a_feature_names_where_it_would_go(
    finished: dict[str, Finished], language: str
) -> None:
    done = finished[language]
    spec = documents(done.sage.project)[f"{done.folder('feature')}/spec.md"]
    hook = {"python": "Client.add_hook", "go": "Router.Use", "typescript": "Server.addHook"}
    assert hook[language] in spec.partition("## Where it would go")[2].partition("\n## ")[0]


# ------------------------------------------------------------------ what a run says


@pytest.mark.parametrize(("language", "template"), _EACH)
def test_events_are_those_that_are_promised(
    finished: dict[str, Finished], language: str, template: str
) -> None:
    run = finished[language].runs[template]
    for event in run.events:
        assert event["run_id"] == run.run_id
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
    assert (run.events[0]["event"], run.events[-1]["event"]) == ("run_started", "run_finished")
    assert run.events[0]["nodes"] == len(run.starts) == len(run.succeeded)
    assert set(run.starts.values()) == {1}
    assert [each["phase"] for each in run.named("phase_completed")] == list(PHASES[template])
    assert all(each["ok"] for each in run.named("phase_completed"))
    assert not run.named("worker_lost")


@pytest.mark.parametrize(("language", "template"), _EACH)
def test_no_phase_begins_before_those_that_it_depends_on(
    finished: dict[str, Finished], language: str, template: str
) -> None:
    run, order = finished[language].runs[template], PHASES[template]
    ended: list[str] = []
    for event in run.events:
        if event["event"] == "phase_completed":
            ended.append(event["phase"])
        elif event["event"] == "node_started":
            phase = event["node"].partition("/")[0]
            assert ended == list(order[: order.index(phase)])


@pytest.mark.requirement("ORCH-018")
@pytest.mark.parametrize(("language", "template"), _EACH)
def test_each_server_starts_once_and_no_context_is_loaded_again(
    finished: dict[str, Finished], language: str, template: str
) -> None:
    end = finished[language].runs[template].end
    assert end["server_starts"] == dict.fromkeys(SAGE_SERVERS, 1)
    assert end["context_reloads"] == 0


@pytest.mark.parametrize(("language", "template"), _EACH)
def test_every_result_says_where_it_comes_from(
    finished: dict[str, Finished], language: str, template: str
) -> None:
    done = finished[language]
    history = done.sage.history(done.runs[template].run_id)
    for node in history.nodes():
        value = history.value(node.id)
        assert value["provenance"] in ("local", "cache"), node.id  # cache: patterns of an earlier run
        assert value["evidence_level"] in ("cited", "none", "measured"), node.id
        for each in value.get("citations", ()):
            where = each if isinstance(each, str) else f"{each['source']}:{each.get('line')}"
            assert false_citations(done.sage.project, f"`{where}`") == [], f"{node.id}: {where}"


@pytest.mark.requirement("ORCH-004")
@pytest.mark.parametrize(("language", "template"), _EACH)
def test_tokens_are_measured_before_and_after(
    finished: dict[str, Finished], language: str, template: str
) -> None:
    """Of repositories this small four tenths go; what large ones save is measured by bench/."""
    end = finished[language].runs[template].end
    assert end["raw_tokens"] >= 1.6 * end["kept_tokens"] > 0
    assert "o200k_base" in end["tokenizer"] or "estimated" in end["tokenizer"]
    nodes = finished[language].runs[template].succeeded.values()
    assert sum(node.get("raw_tokens", 0) for node in nodes) == end["raw_tokens"]


# ------------------------------------------------------------------ the cache


@pytest.mark.requirement("ORCH-019")
@pytest.mark.parametrize("template", PHASES)
def test_a_second_run_takes_most_of_its_research_from_the_cache(
    finished: dict[str, Finished], template: str
) -> None:
    done = finished["go"]
    sage = done.sage
    before, texts = sage.cache_stats(), documents(sage.project)
    again = sage.run(template, _ASKED.get(template, go_router.ERROR), "--run-id", f"{template}-other")
    spec = load_workflow(_template(template, sage.project))
    cacheable = {node.id for node in spec.nodes if (node.operation.cache or {}).get("enabled", True)}
    cacheable = {node.id for node in spec.nodes if node.operation.cache and node.id in cacheable}
    assert len(again.cached & cacheable) >= 0.6 * len(cacheable)
    assert again.cached <= cacheable
    assert documents(sage.project) == texts
    after = sage.cache_stats()
    assert after["hits"] - before["hits"] == len(again.cached)
    assert after["hit_rate"] == pytest.approx(after["hits"] / (after["hits"] + after["misses"]), abs=1e-3)


@pytest.mark.requirement("ORCH-019")
def test_a_changed_source_file_makes_local_research_run_again(finished: dict[str, Finished]) -> None:
    sage = finished["typescript"].sage
    source = sage.project / "src/store.ts"
    text = source.read_text()
    source.write_text(text + "\nexport const RATE_LIMIT = 50;\n")
    try:
        changed = sage.run("feature", FEATURE, "--run-id", "changed")
    finally:
        source.write_text(text)
    assert changed.cached == set()
    back = sage.run("feature", FEATURE, "--run-id", "back")
    assert len(back.cached) >= 4


def _template(name: str, project: Path) -> Path:
    found = find_template(name, project)
    assert found is not None
    return found.path
