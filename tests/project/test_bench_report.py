"""The report and the benchmarks of the sage layer: their figures are those of the runs, and what failed says so."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bench import final_report, report_kills
from bench.__main__ import main as bench_main
from bench.final_report import written
from bench.measure import Size, figure
from bench.report_kills import Kills
from bench.report_measure import MEASURES, Section, Subject
from bench.report_pages import html, markdown
from bench.report_svg import Bar, Chart, svg
from bench.sage_feature import Waited, one_after_another
from bench.sage_ground import Told, copied, repositories, template_data
from bench.sage_makespan import Phase
from bench.sage_repository import make_repository
from bench.sage_research import Amount, Sifted, edges

_SPEC = "specification/write"


def told(*events: dict[str, Any], code: int = 0) -> Told:
    return Told(
        code, list(events), [float(number) for number, _ in enumerate(events, 1)], 9.0, "what it said"
    )


def event(name: str, node: str = "", **data: Any) -> dict[str, Any]:
    return {"event": name, "run_id": "r", "time": "", **({"node": node} if node else {}), **data}


def tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------ the whole report


def value(section: Section, name: str) -> float:
    (found,) = [each for each in section.figures if each.name == name]
    return found.value


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("SAGE_LONG_TESTS"), reason="takes most of a minute; SAGE_LONG_TESTS=1 runs it"
)
@pytest.mark.timeout(300)
@pytest.mark.requirement("ORCH-022")
@pytest.mark.requirement("ORCH-025")
def test_the_report_of_a_tiny_repository_tells_what_its_runs_did(tmp_path: Path) -> None:
    """One test, so that it is measured once: with two kills, and waits that hardly wait."""
    repository = tmp_path / "tiny"
    repository.mkdir()
    make_repository(repository, files=30)
    with copied(repository) as here:
        subject = Subject(here, repository, 2, Size(quick=True), 1000.0)
        sections = {measure.__name__: measure(subject) for measure in MEASURES}
    _figures_are_those_of_the_runs(subject, sections)
    _cache_answered_the_second_run(subject, sections)
    _kills_are_resumed_and_nothing_is_repeated(sections)
    _what_cannot_be_measured_is_said_instead(sections)
    _pages_show_every_figure_and_every_plot(sections, tmp_path)
    _repository_is_left_alone(repository)


def _figures_are_those_of_the_runs(subject: Subject, sections: dict[str, Section]) -> None:
    (first,) = subject.cold
    moments = {
        each.get("node"): moment
        for each, moment in zip(first.events, first.moments, strict=True)
        if each["event"] == "node_succeeded"
    }
    research = [each for node, each in first.succeeded.items() if node.startswith("research/")]
    assert value(sections["first_output"], "report-spec") == moments[_SPEC]
    assert value(sections["first_output"], "report-first") == min(
        moment
        for node, moment in moments.items()
        if str(node).startswith("research/") and node != "research/skills"
    )
    passed = sum(each["kept_bytes"] for each in research)
    assert value(sections["tokens"], "research-passed") == passed / 1e3
    assert value(sections["tokens"], "research-candidates") > passed / 1e3
    assert 0 < value(sections["tokens"], "run-tokens") < 100
    assert value(sections["reloads"], "context-reloads") == first.end["context_reloads"] == 0


def _cache_answered_the_second_run(subject: Subject, sections: dict[str, Section]) -> None:
    again, _ = subject.second
    cached = sum(each["cached"] for each in again.succeeded.values())
    declared = [
        each
        for phase in template_data("feature")["phases"]
        for each in phase["operations"]
        if each.get("cache")
    ]
    assert cached == len(declared)
    assert value(sections["cache"], "cache-hits") == 100


def _kills_are_resumed_and_nothing_is_repeated(sections: dict[str, Section]) -> None:
    section = sections["resumes"]
    assert value(section, "resume-rate") == 100
    assert value(section, "nodes-repeated") == 0
    assert section.not_measured == []
    (kills, rates) = section.charts
    assert sum(bar.value for bar in kills.bars) == 2
    assert {bar.label for bar in rates.bars} >= {"kills that were resumed", "cache hits of a second run"}


def _what_cannot_be_measured_is_said_instead(sections: dict[str, Section]) -> None:
    assert "no run was offered a skill" in sections["skills"].not_measured[0]
    assert "none is configured" in sections["tokens"].not_measured[0]


def _pages_show_every_figure_and_every_plot(sections: dict[str, Section], tmp_path: Path) -> None:
    paths = written(list(sections.values()), {"CPU": "a fast one"}, tmp_path / "out" / "deep")
    page = (tmp_path / "out/deep/report.md").read_text()
    whole = (tmp_path / "out/deep/report.html").read_text()
    for section in sections.values():
        for each in section.figures:
            assert re.search(rf"\| `{each.name}` \| {re.escape(each.line().split()[1])} ", page), each.name
            assert f"<td>{each.name}</td>" in whole
        for chart in section.charts:
            assert f"({chart.name}.svg)" in page
            assert tmp_path / "out/deep" / f"{chart.name}.svg" in paths
            assert svg(chart) in whole
    assert "src=" not in whole
    assert "a fast one" in page
    assert "a fast one" in whole


def _repository_is_left_alone(repository: Path) -> None:
    assert not (repository / ".sage").exists()
    assert not (repository / "docs/specs").exists()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True)
    assert status.stdout == ""


def test_a_measure_that_fails_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def speedups(subject: Subject) -> Section:
        raise RuntimeError("no server")

    def tokens(subject: Subject) -> Section:
        return Section(title="Tokens", how="", figures=[figure("run-tokens", [90.0], "%")])

    monkeypatch.setattr(final_report, "MEASURES", (speedups, tokens))
    (tmp_path / "mine").mkdir()
    code = final_report.main(["--repository", str(tmp_path / "mine"), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out/report.md").read_text()
    assert code == 1
    assert "**Not measured:** RuntimeError: no server" in page
    assert "| `run-tokens` | 90 % |" in page
    assert "no server" in capsys.readouterr().err


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        bench_main(["report", "--repository", str(tmp_path / "none")])
    assert end.value.code == 2


# ------------------------------------------------------------------ pages and plots


def test_a_plot_is_xml_whatever_its_texts_are() -> None:
    chart = Chart("c", "<a> & 'b' \"c\"", [Bar("x < y & z", 1.0, "1 <s>", spread=(0.5, 2.0))], 3.0, "3 > 2")
    root = ElementTree.fromstring(svg(chart))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["<a> & 'b' \"c\"", "3 > 2", "x < y & z", "1 <s>"]


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.0, 0.0], []])
def test_a_bars_length_is_its_value(values: list[float]) -> None:
    root = ElementTree.fromstring(svg(Chart("c", "t", [Bar("b", each, "") for each in values])))
    widths = [float(each.attrib["width"]) for each in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    longest = max(values, default=0.0) or 1.0
    assert [round(each / 380, 2) for each in widths] == [round(max(v / longest, 1 / 380), 2) for v in values]


def test_texts_cannot_break_a_table_or_a_page() -> None:
    section = Section(
        title="<b>", how="a & b", figures=[figure("f", [1.0], "s", note="a | b\nc <script>")], problem="x|y"
    )
    row = next(line for line in markdown([section], {}).splitlines() if line.startswith("| `f`"))
    assert row.count(" | ") == 5
    assert "a \\| b c" in row
    page = html([section], {"k": "<v>"})
    assert "<script>" not in page
    assert "&lt;v&gt;" in page


# ------------------------------------------------------------------ kills


def judged(finished: set[str], *events: dict[str, Any]) -> Kills:
    found = Kills(kills=1)
    report_kills._judge(found, told(*events), finished)
    return found


def test_a_resume_that_keeps_everything_counts() -> None:
    found = judged({"a"}, event("run_started", resumed=True, completed=1), event("node_started", "b"))
    assert (found.rate, found.repeated, found.lost, found.again_s) == (1.0, [], [], [1.0])


def test_a_finished_node_that_runs_again_is_no_resume() -> None:
    found = judged({"a"}, event("run_started", resumed=True, completed=1), event("node_started", "a"))
    assert (found.rate, found.repeated) == (0.0, ["a"])


def test_a_result_that_is_gone_is_no_resume() -> None:
    found = judged({"a", "b"}, event("run_started", resumed=True, completed=1))
    assert found.rate == 0.0
    assert found.lost == ["r: 1 of 2 were kept"]


@pytest.mark.parametrize("events", [[], [event("run_started", resumed=False, completed=0)]])
def test_a_run_that_began_anew_is_no_resume(events: list[dict[str, Any]]) -> None:
    found = judged(set(), *events)
    assert found.rate == 0.0
    assert "not resumed" in found.lost[0]


# ------------------------------------------------------------------ what the figures are made of


def test_a_run_that_failed_is_no_figure() -> None:
    failed = event("run_finished", status="failed", reason="broken")
    for one in (told(failed, code=1), told(failed), told(code=2)):
        with pytest.raises(RuntimeError, match="what it said"):
            _ = one.end


def test_skills_alone_are_no_first_output() -> None:
    from bench.sage_feature import first_research_s

    one = told(event("node_succeeded", "research/skills"), event("node_succeeded", "research/market"))
    assert first_research_s(one) == 2.0


def test_one_after_another_is_the_same_definition_with_one_at_a_time() -> None:
    data = template_data("feature")
    serial = one_after_another(data)
    assert serial["concurrency"] == 1
    assert serial["phases"] == data["phases"]


def test_a_speedup_is_what_one_after_another_takes_over_what_all_at_once_take() -> None:
    phase = Phase(20.0, [2.5, 2.3], [7.0, 6.9], [0.01, 0.03, 0.02])
    assert (phase.fixed, phase.longest) == (0.02, 2.25)
    assert phase.speedups == [7.0 / 2.5, 6.9 / 2.3]
    assert phase.excess_ms == pytest.approx([250, 50])
    waits = {"research/a": 45.0, "research/b": 30.0, "specification/write": 5.0}
    assert Waited(waits, 20.0, [(2.5, 4.0)]).most == 80 / 50


def test_fewer_tokens_are_told_against_candidates_and_against_findings() -> None:
    one = Sifted("r", "feature", 1, Amount(), Amount(), Amount(), 1000, 400, 100)
    assert (one.fewer_percent, one.fewer_than_found_percent) == (90, 75)
    assert Amount(1, 2) + Amount(3, 4) == Amount(4, 6)


def test_an_edge_is_a_whole_result_that_is_handed_on_once() -> None:
    given = {"all": ["${a/x}", "${a/x}", "${z}"], "part": "${a/w | path}", "topic": "${inputs.topic}"}
    nodes: dict[str, dict[str, Any]] = {
        "a/x": {"arguments": {}},
        "b/z": {"arguments": {}},
        "b/y": {"arguments": given},
    }
    assert edges(nodes) == [("b/y", "a/x"), ("b/y", "b/z")]


def test_the_generated_repository_is_the_same_each_time(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        make_repository(tmp_path / name, files=30)
        files = {p.relative_to(tmp_path / name): text for p, text in tree(tmp_path / name).items()}
        found.append({path: text for path, text in files.items() if path.parts[0] != ".git"})
    assert found[0] == found[1]
    assert len(found[0]) == 30


def test_a_folder_without_git_is_copied_and_git_is_cloned(tmp_path: Path) -> None:
    (tmp_path / "bare/.sage").mkdir(parents=True)
    (tmp_path / "bare/a.py").write_text("x = 1\n")
    with copied(tmp_path / "bare") as here:
        assert [path.name for path in here.project.iterdir()] == ["a.py"]
    (tmp_path / "git").mkdir()
    make_repository(tmp_path / "git", files=10)
    (tmp_path / "git/uncommitted.py").write_text("")
    with copied(tmp_path / "git") as here:
        assert (here.project / "pyproject.toml").exists()
        assert not (here.project / "uncommitted.py").exists()


def test_a_repository_that_was_given_and_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_BENCH_REPOSITORIES", "/no/such/place")
    with pytest.raises(RuntimeError, match="/no/such/place"):
        repositories()
