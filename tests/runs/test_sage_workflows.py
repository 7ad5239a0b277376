"""The three templates from end to end, as a user runs them, on repositories of three languages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_harness import wait_until
from places import SUPPORT
from sage_harness import (
    DOCUMENTS,
    FEATURE,
    PHASES,
    SageProject,
    SageRun,
    cited,
    documents,
    false_citations,
    shared,
)
from sage_repositories import REPOSITORIES, go_router, python_client, typescript_api

from sage_actors import Supervisor, load
from sage_actors.actors.clock import SystemClock
from sage_actors.servers.catalog import SAGE_SERVERS
from sage_actors.supervisor.templates.library import find_template, load_workflow

pytestmark = [pytest.mark.slow, pytest.mark.requirement("ORCH-021")]

_ERRORS = {"python": python_client.ERROR, "go": go_router.ERROR, "typescript": typescript_api.ERROR}
_ASKED = {"feature": FEATURE, "enhancement": "error handling"}
_LONG = bool(os.environ.get("SAGE_LONG_TESTS"))
_TEMPLATES = {  # an enhancement of two languages more by flag
    language: tuple(PHASES) if _LONG or language == "python" else ("feature", "bugfix")
    for language in REPOSITORIES
}
_EACH = [(language, template) for language, templates in _TEMPLATES.items() for template in templates]
_LAST = {
    "feature": "implementation/agent",
    "bugfix": "validation/checks",
    "enhancement": "implementation/agent",
}
_DAY_S = 86_400.0
_WHAT = ("caching", "rate limiting", "retries", "logging")
_WHICH = ("client", "public API", "command line")
RAW = SUPPORT / "mcp_servers/raw.py"


class Finished:
    """One repository in which each of its templates ran once."""

    def __init__(self, home: Path, language: str) -> None:
        self.sage = SageProject(home, REPOSITORIES[language])
        self.head = self.sage.git("rev-parse", "HEAD")
        with self.sage.nothing_else_written():
            self.runs = {
                template: self.sage.run(template, _ASKED.get(template, _ERRORS[language]))
                for template in _TEMPLATES[language]
            }

    def folder(self, template: str) -> str:
        """Where the documents of a run are, below docs/specs."""
        value = self.sage.history(self.runs[template].run_id).value("implementation/execute")
        return str(value["slug"])


def _finish_all(folder: Path) -> dict[str, Finished]:
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda each: Finished(folder / each, each), REPOSITORIES)
    return dict(zip(REPOSITORIES, made, strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Finished]]:
    """All runs; two repositories at a time."""
    found = shared(tmp_path_factory, "finished", _finish_all)
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
        assert 'made by: "sage-actors, without a model"' in text


@pytest.mark.parametrize("language", REPOSITORIES)
def test_a_run_changes_nothing_but_its_documents(finished: dict[str, Finished], language: str) -> None:
    done = finished[language]
    expected = {f"docs/specs/{done.folder(template)}/{name}" for template in done.runs for name in DOCUMENTS}
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
    assert run.end["results"][_LAST[template]] is not None
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
    assert history.value("implementation/agent")["status"] == "needs_agent"
    for node in history.nodes():
        if node.id == "implementation/agent":  # no server's answer: nobody configured an agent
            continue
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
def test_a_second_run_takes_most_of_its_research_from_the_cache(
    finished: dict[str, Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    sage = finished["python"].sage
    _share_keys(sage, monkeypatch)
    before, texts, hits = sage.cache_stats(), documents(sage.project), 0
    with Supervisor(sage.project) as supervisor:
        for template in PHASES:
            spec = load(_template(template, sage.project))
            topic = _ASKED.get(template, python_client.ERROR)
            run = supervisor.start(spec, run_id=f"{template}-other", inputs={"topic": topic})
            run.result(60).raise_for_status()
            ends = [each for each in run.events() if each.event == "node_succeeded"]
            again = {each.node for each in ends if each.data["cached"]}
            nodes = load_workflow(_template(template, sage.project)).nodes
            cacheable = {
                n.id for n in nodes if (n.operation.cache or {"enabled": False}).get("enabled", True)
            }
            assert again <= cacheable
            assert len(again) >= 0.6 * len(cacheable) > 0
            hits += len(again)
    assert documents(sage.project) == texts
    after = sage.cache_stats()
    assert after["hits"] - before["hits"] == hits
    assert after["hit_rate"] == pytest.approx(after["hits"] / (after["hits"] + after["misses"]), abs=1e-3)


@pytest.mark.requirement("ORCH-019")
def test_a_changed_source_file_makes_local_research_run_again(
    finished: dict[str, Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    sage = finished["typescript"].sage
    _share_keys(sage, monkeypatch)
    source = sage.project / "src/store.ts"
    text = source.read_text()
    with Supervisor(sage.project) as supervisor:

        def cached(run_id: str) -> set[str]:
            spec = load(_template("feature", sage.project))
            run = supervisor.start(spec, run_id=run_id, inputs={"topic": FEATURE})
            run.result(60).raise_for_status()
            return {
                str(each.node)
                for each in run.events()
                if each.event == "node_succeeded" and each.data["cached"]
            }

        source.write_text(text + "\nexport const RATE_LIMIT = 50;\n")
        try:
            assert cached("changed") == set()
        finally:
            source.write_text(text)
        assert len(cached("back")) >= 4


# ------------------------------------------------------------------ days, many at once, many processes


class Moved(SystemClock):
    """The machine's clock, some days ahead."""

    def __init__(self, days: float) -> None:
        self.days = days
        self.now = lambda: time.time() + self.days * _DAY_S


@pytest.fixture
def sage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SageProject]:
    """A repository of its own, whose key this process finds as the command line does."""
    made = SageProject(tmp_path / "home", REPOSITORIES["python"])
    _share_keys(made, monkeypatch)
    yield made
    made.close()


def _share_keys(sage: SageProject, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "PYTHON_KEYRING_BACKEND"):
        monkeypatch.setenv(name, sage.environ[name])


@pytest.mark.requirement("ORCH-019")
def test_a_run_goes_on_days_later_in_another_process_and_the_cache_keeps_a_month(sage: SageProject) -> None:
    definition = json.loads(_template("feature", sage.project).read_text())
    wait = {"id": "review", "operations": [{"id": "pause", "type": "wait", "seconds": 2 * _DAY_S}]}
    definition["phases"][2]["dependencies"].append("review")
    definition["phases"].insert(2, {**wait, "dependencies": ["specification"]})
    sage.write("long.json", definition)
    first = sage.run_until(
        lambda event: event["event"] == "node_waiting" and event["node"] == "review/pause",
        *("run", "--json", "long.json", FEATURE, "--run-id", "long"),
    )
    assert "specification/write" in first.succeeded
    with Supervisor(sage.project, clock=Moved(1)) as supervisor:
        run = supervisor.resume("long")
        wait_until(lambda: "review/pause" in run.status().waiting, what="it still waits on the second day")
    with Supervisor(sage.project, clock=Moved(2.5)) as supervisor:
        run = supervisor.resume("long")
        run.result(180).raise_for_status()
        started = {event.node for event in run.events() if event.event == "node_started"}
        assert not started & set(first.succeeded)
        assert "planning/write" in started
    spec = load(_template("feature", sage.project))
    counts, clock = [], Moved(29)
    with Supervisor(sage.project, clock=clock) as supervisor:
        for clock.days in (29, 31):
            outcome = supervisor.run(spec, run_id=f"day-{clock.days}", inputs={"topic": FEATURE}, timeout=60)
            counts.append(outcome.raise_for_status().counts["cached"])
    assert counts == [4, 0]


@pytest.mark.requirement("ORCH-018")
def test_twelve_workflows_at_once_share_the_servers_and_not_their_results(sage: SageProject) -> None:
    topics = [f"{what} for the {which}" for what in _WHAT for which in _WHICH]
    spec = load(_template("feature", sage.project))
    with Supervisor(sage.project, cache=False) as supervisor:
        runs = {topic: supervisor.start(spec, inputs={"topic": topic}) for topic in topics}
        outcomes = {topic: run.result(100).raise_for_status() for topic, run in runs.items()}
        ends = [list(run.events())[-1].data for run in runs.values()]
    starts = [each for end in ends for each in end.get("server_starts", {}).items()]
    assert sorted(starts) == sorted((name, 1) for name in SAGE_SERVERS)
    written = documents(sage.project)
    assert len(written) == len(DOCUMENTS) * len(topics) == 36
    for topic, outcome in outcomes.items():
        value = outcome["implementation/execute"]
        assert f'topic: "{topic}"' in written[value["path"].removeprefix("docs/specs/")]
    assert len({outcome["specification/write"]["slug"] for outcome in outcomes.values()}) == 12


def test_two_command_lines_on_one_project_do_not_disturb_each_other(sage: SageProject) -> None:
    asked = [("feature", FEATURE), ("enhancement", "error handling")]
    processes = [sage.start("run", "--json", *each) for each in asked]
    said = [process.communicate(timeout=100) for process in processes]
    runs = [SageRun(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]
    assert [run.code for run in runs] == [0, 0], [run.stderr for run in runs]
    assert [run.end["status"] for run in runs] == ["succeeded", "succeeded"]
    assert len(documents(sage.project)) == 2 * len(DOCUMENTS)
    stats = sage.cache_stats()
    assert stats["hits"] + stats["misses"] == 10  # five questions each: no count is lost
    assert stats["unreadable"] == 0


# ------------------------------------------------------------------ partial failure


def _research(*dead: str, retry: int = 1) -> dict[str, Any]:
    """The feature's research and specification, where the operations `dead` ask a server that is down."""
    definition = json.loads(_template("feature", Path()).read_text())
    research, specification = definition["phases"][:2]
    for operation in research["operations"]:
        operation |= {"cache": False, "retry": {"max_attempts": retry, "backoff": 0.05, "factor": 1.0}}
        if operation["id"] in dead:
            operation |= {"server": "search", "tool": "echo", "arguments": {"text": "x"}}
    research["operations"] = research["operations"][:4]
    specification["operations"][0]["arguments"]["skills"] = None
    return {**definition, "phases": [research, specification]}


def _bring_server(sage: SageProject) -> None:
    """`search` is down as long as there is no file `up`."""
    command = f"test -e up || exit 7; exec {sys.executable} {RAW}"
    entry = {"command": "/bin/sh", "args": ["-c", command]}
    (sage.project / ".mcp.json").write_text(json.dumps({"mcpServers": {"search": entry}}))


@pytest.mark.requirement("ORCH-006")
@pytest.mark.requirement("ORCH-014")
def test_a_dead_server_opens_its_breaker_and_the_rest_goes_on(sage: SageProject) -> None:
    _bring_server(sage)
    name = sage.write("one.json", _research("competitive", retry=5))
    run = sage.run(name, FEATURE, "--trust", "--run-id", "one")
    assert [(each["endpoint"], each["state"]) for each in run.named("breaker")] == [("search", "open")]
    assert {each["node"] for each in run.named("node_failed")} == {"research/competitive"}
    (phase, _) = run.named("phase_completed")
    assert (phase["succeeded"], phase["total"], phase["ok"]) == (3, 4, True)
    assert "rate-limiting-for-the-public-api/spec.md" in documents(sage.project)


@pytest.mark.requirement("ORCH-006")
def test_a_run_with_too_few_answers_pauses_and_goes_on_when_the_server_is_back(sage: SageProject) -> None:
    _bring_server(sage)
    name = sage.write("two.json", _research("competitive", "market"))
    run = sage.run(name, FEATURE, "--trust", "--run-id", "two", code=5)
    assert run.end["status"] == "paused"
    (paused,) = run.named("run_paused")
    assert "2 of 4 operations succeeded, min_success is 0.75" in paused["reason"]
    assert documents(sage.project) == {}
    (sage.project / "up").touch()
    again = sage.resume("two")
    assert again.end["status"] == "succeeded"
    assert set(again.starts) == {"research/competitive", "research/market", "specification/write"}


# ------------------------------------------------------------------ projects that are not as they should be


def _no_git(root: Path) -> None:
    REPOSITORIES["python"](root)
    shutil.rmtree(root / ".git")


def _empty(root: Path) -> None:
    root.mkdir(exist_ok=True)


def _no_commits(root: Path) -> None:
    REPOSITORIES["go"](root)
    subprocess.run(["git", "update-ref", "-d", "HEAD"], cwd=root, check=True)


@pytest.mark.parametrize("make", [_no_git, _empty, _no_commits])
def test_a_project_without_git_files_or_commits_gets_honest_documents(make: Any, tmp_path: Path) -> None:
    sage = SageProject(tmp_path / "home", make)
    with sage.nothing_else_written("project/docs"):
        run = sage.run("feature", FEATURE)
    sage.close()
    assert run.end["status"] == "succeeded"
    written = documents(sage.project)
    assert len(written) == len(DOCUMENTS)
    for text in written.values():
        assert false_citations(sage.project, text) == []
    spec = written["rate-limiting-for-the-public-api/spec.md"]
    assert "Not determined" in spec
    assert make is not _empty or not cited(spec)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told_and_the_run_can_go_on(sage: SageProject) -> None:
    _check_storage(
        sage, lambda: (sage.project / "docs").chmod(0o555), lambda: (sage.project / "docs").chmod(0o755)
    )


def test_a_file_in_the_place_of_the_documents_is_told_and_the_run_can_go_on(sage: SageProject) -> None:
    place = sage.project / "docs/specs"
    _check_storage(sage, place.touch, place.unlink)


def test_a_link_in_the_place_of_the_documents_is_not_followed(sage: SageProject, tmp_path: Path) -> None:
    place, outside = sage.project / "docs/specs", tmp_path / "outside"
    outside.mkdir()
    place.symlink_to(outside)
    with Supervisor(sage.project) as supervisor:
        spec = load(_template("feature", sage.project))
        failed = supervisor.run(spec, run_id="r", inputs={"topic": FEATURE}, timeout=60)
        assert failed.status == "failed"
        assert "docs" in failed.errors["specification/write"]["message"]
        place.unlink()
        supervisor.resume("r").result(60).raise_for_status()
    assert not list(outside.iterdir())
    assert len(documents(sage.project)) == len(DOCUMENTS)


def _check_storage(sage: SageProject, spoil: Any, mend: Any) -> None:
    spoil()
    failed = sage.run("feature", FEATURE, "--run-id", "r", code=1)
    (error, *_) = [each["error"] for each in failed.named("node_failed") if not each["will_retry"]]
    assert "docs" in error["message"]
    assert "docs" in failed.stderr
    mend()
    again = sage.resume("r")
    assert again.end["status"] == "succeeded"
    assert not {node for node in again.starts if node.startswith("research/")}
    assert len(documents(sage.project)) == len(DOCUMENTS)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(sage: SageProject) -> None:
    """The limit of file sizes stands for the disk: writes fail in the middle, with an error."""
    sage("keys", "create")
    limited = [
        "sh",
        "-c",
        f"ulimit -f 16; exec {sys.executable} -m sage_actors run --json feature '{FEATURE}' --run-id r",
    ]
    done = subprocess.run(
        limited, cwd=sage.project, env=sage.environ, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode in (1, 5), done.stderr
    assert "Traceback" not in done.stderr
    assert sage.resume("r").end["status"] == "succeeded"
    assert len(documents(sage.project)) == len(DOCUMENTS)


def _template(name: str, project: Path) -> Path:
    found = find_template(name, project)
    assert found is not None
    return found.path
