"""What the report measures on one repository: each section by itself, from runs of the real command line."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.budgets import Better
from bench.ground import Ground
from bench.measure import Figure, Size, figure, number
from bench.report_kills import killed_and_resumed
from bench.report_svg import Bar, Chart
from bench.sage_feature import Waited, first_research_s, local_speedup, waited
from bench.sage_ground import TOPICS, Told, command_line, environ_of, remove_traces, template_data
from bench.sage_makespan import measured_phase
from bench.sage_research import sifted

__all__ = ["MEASURES", "Section", "Subject", "unmeasured"]


@dataclass(slots=True, kw_only=True)
class Section:
    """how: what was done. not_measured: what belongs here and was not, with the reason. problem: why nothing was."""

    title: str
    how: str
    figures: list[Figure] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    problem: str = ""


@dataclass
class Subject:
    """The copy that is measured on, and the runs that several sections look at: each is carried out once."""

    here: Ground
    repository: Path
    kills: int
    size: Size
    scale: float  # what waits are divided by
    rates: list[Bar] = field(default_factory=list)  # in %, of all sections

    @cached_property
    def cold(self) -> list[Told]:
        """The feature template on the bare repository: no state, no cache, no documents of an earlier run."""
        told = []
        for _ in range(self.size.repeats(3, 1)):
            remove_traces(self.here)
            told.append(command_line(self.here, "run", "feature", TOPICS["feature"]))
        for each in told:
            _ = each.end
        return told

    @cached_property
    def second(self) -> tuple[Told, dict[str, Any]]:
        """The same topic again, as another run, after the last cold one; and what the cache counted for it."""
        _ = self.cold
        before = self.asked("cache", "stats")
        told = command_line(self.here, "run", "feature", TOPICS["feature"], "--run-id", "second")
        _ = told.end
        after = self.asked("cache", "stats")
        return told, {name: after[name] - before[name] for name in ("hits", "misses")}

    @cached_property
    def waiting(self) -> Waited:
        return waited(self.cold[-1], self.size.pick(20, 100), self.size.repeats(3, 1))

    def asked(self, *command: str) -> dict[str, Any]:
        """What another command of the command line says with --json."""
        done = subprocess.run(
            [sys.executable, "-m", "sage_actors", *command, "--json"],
            cwd=self.here.project,
            env=environ_of(self.here),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"sage-actors {' '.join(command)}: {done.stderr}")
        said: dict[str, Any] = json.loads(done.stdout)
        return said


def first_output(subject: Subject) -> Section:
    told = subject.cold
    note = f"wall time from the start of the process; {TOPICS['feature']!r}, nothing cached"
    spec = [each.succeeded_after_s("specification/write".__eq__) for each in told]
    figures = [
        figure("report-first", [first_research_s(each) for each in told], "s", note=note),
        figure("report-spec", spec, "s", note="the same runs, until spec.md is written"),
        figure("report-whole", [each.wall_s for each in told], "s", note="the same, until the process ended"),
    ]
    labels = ("first result of research", "spec.md is there", "the whole workflow")
    bars = [_bar(label, each) for label, each in zip(labels, figures, strict=True)]
    return Section(
        title="The first output",
        how=f"`sage-actors run feature`, runs: {len(told)}, each without state, cache or documents of another.",
        figures=figures,
        charts=[Chart("first-output", "Time from the command until ... (s)", bars)],
    )


def speedups(subject: Subject) -> Section:
    """What running at once saves: operations that wait, and the real ones."""
    phase = measured_phase(subject.scale, subject.size.repeats(3, 1))
    times = subject.waiting
    together = statistics.median(float(each.end["seconds"]) for each in subject.cold)
    local, serial_s = local_speedup(subject.here, together)
    scale = f"calls of an MCP server that wait, 1/{phase.scale:g} of"
    figures = [
        figure(
            "research-speedup",
            phase.speedups,
            "x",
            note=f"{scale} 45, 30, 40 and 20 s, at once and one after another; these waits allow 3.00x",
        ),
        figure(
            "feature-speedup",
            times.speedups,
            "x",
            note="the template's graph of such calls: research waits as above, the rest as long as it took in the "
            f"runs above; these waits allow {times.most:.2f}x",
        ),
        figure(
            "feature-local",
            [local],
            "x",
            note="the template with its real servers, which compute and share the cores: one after another "
            f"{number(serial_s)} s, as it is {number(together)} s",
        ),
    ]
    labels = ("research phase, waiting", "feature workflow, waiting", "feature workflow, local servers")
    bars = [_bar(label, each) for label, each in zip(labels, figures, strict=True)]
    chart = Chart("speedups", "At once against one after another (x)", bars, limit=3.0, limit_text="3x")
    return Section(
        title="Speedup",
        how="Wall time of the same operations one after another (concurrency 1), over their wall time as the "
        "template runs them. No sum of node times is used: nodes that wait for one another would count twice.",
        figures=figures,
        charts=[chart],
    )


def tokens(subject: Subject) -> Section:
    told = subject.cold[-1]
    end = told.end
    one = sifted(subject.repository, "feature", told, subject.here.project)
    counter = f"by {end.get('tokenizer', 'no tokenizer')}"
    figures = [
        figure(
            "research-candidates",
            [one.candidates.size_bytes / 1e3],
            "KB",
            note=f"{one.passages:,} passages ranked for the topic, of {one.read_bytes:,} bytes read; "
            f"{one.candidates.tokens:,} tokens {counter}",
        ),
        figure(
            "research-passed",
            [one.passed.size_bytes / 1e3],
            "KB",
            note=f"what the run's research phase handed on; {one.passed.tokens:,} tokens",
        ),
        figure(
            "run-tokens",
            [one.fewer_percent],
            "%",
            note=f"fewer tokens along all edges of the run ({one.handed:,}) than with every candidate handed on "
            f"({one.handed_candidates:,}), {counter}",
        ),
        figure(
            "run-tokens-found",
            [one.fewer_than_found_percent],
            "%",
            note=f"than with all handed on that the tools held to be on the topic ({one.handed_found:,})",
        ),
    ]
    sizes = {
        "candidates, each once": one.candidates.tokens,
        "found by the tools": one.found.tokens,
        "passed on": one.passed.tokens,
    }
    bars = [
        Bar(label, each, f"{each:,} tokens", "ours" if label == "passed on" else "other")
        for label, each in sizes.items()
    ]
    used = {name: end["tokens"][name] for name in ("input_tokens", "output_tokens")}
    missing = [] if any(used.values()) else ["tokens of a model: none is configured, and none was asked"]
    return Section(
        title="Tokens",
        how="Counted in the run itself (its events); candidates by calling the same tools again and counting what "
        "their index ranked.",
        figures=figures,
        charts=[Chart("tokens", "Research of the run, in tokens", bars)],
        not_measured=missing,
    )


def reloads(subject: Subject) -> Section:
    ends = [each.end for each in subject.cold]
    starts = sum(ends[-1].get("server_starts", {}).values())
    values = [float(each.get("context_reloads", 0)) for each in ends]
    note = f"starts of a server after its first, in a run; {starts} starts of {len(ends[-1]['server_starts'])} servers"
    return Section(
        title="Context reloads",
        how="As the run's last event counts them.",
        figures=[_goal(0, "lower", figure("context-reloads", values, "", note=note))],
    )


def cache(subject: Subject) -> Section:
    """A second identical run."""
    first = subject.cold[-1]
    told, counts = subject.second
    asked = counts["hits"] + counts["misses"]
    declared = sum(
        bool(each.get("cache"))
        for phase in template_data("feature")["phases"]
        for each in phase["operations"]
    )
    hits = sum(bool(each["cached"]) for each in told.succeeded.values())
    rate = 100 * counts["hits"] / asked if asked else 0.0
    hit_rate = _goal(
        60,
        "higher",
        figure(
            "cache-hits",
            [rate],
            "%",
            note=f"of the {asked} questions that the second run put to the cache ({declared} operations declare it); "
            f"{hits} of its {len(told.succeeded)} nodes were answered",
        ),
    )
    wall = figure(
        "cache-wall", [told.wall_s], "s", note=f"of the second run; the first took {number(first.wall_s)} s"
    )
    subject.rates.append(_bar("cache hits of a second run", hit_rate))
    return Section(
        title="Cache",
        how="The same topic again under another run id; `sage-actors cache stats` before and after.",
        figures=[hit_rate, wall],
    )


def skills(subject: Subject) -> Section:
    _ = subject.second
    usage = subject.asked("skills", "list")["usage"]
    rate = usage.get("reuse_rate", usage.get("rate"))
    section = Section(title="Skills", how="`sage-actors skills list` after the runs above.")
    if rate is None:
        section.not_measured.append(
            "the reuse rate: no run was offered a skill, this repository has none on the topic"
        )
    else:
        note = ", ".join(f"{name} {value}" for name, value in usage.items())
        reuse = figure("skill-reuse", [100 * rate], "%", note=f"runs: {note}")
        section.figures.append(reuse)
        subject.rates.append(_bar("runs that used a skill", reuse))
    return section


def resumes(subject: Subject) -> Section:
    remove_traces(subject.here)
    found = killed_and_resumed(subject.here, subject.kills)
    rate = figure(
        "resume-rate",
        [100 * found.rate],
        "%",
        note=f"{found.resumed} of {found.kills} kills (SIGKILL to the command line, at one of its events or up to "
        f"0.3 s later, seed 1), in {found.runs} runs, of which {found.finished} succeeded in the end",
    )
    repeated = figure(
        "nodes-repeated",
        [float(len(found.repeated))],
        "",
        note="that were reported as finished before the kill",
    )
    figures = [_goal(100, "higher", rate), _goal(0, "lower", repeated)]
    subject.rates.insert(0, _bar("kills that were resumed", rate))
    if found.again_s:
        note = "from the start of the resuming process until its run goes on"
        figures.append(figure("resume-start", found.again_s, "s", note=note))
    bars = [Bar(name, count, f"{count}") for name, count in found.phases.most_common()]
    return Section(
        title="Killed and resumed",
        how="The feature workflow, killed again and again, resumed each time; nothing from the cache. A resume counts "
        "if everything that had been reported as finished was kept and none of it ran again.",
        figures=figures,
        charts=[
            Chart("kills", f"Where the {found.kills} kills fell", bars),
            Chart("rates", "Rates (%)", subject.rates, top=100),
        ],
        not_measured=found.lost,
    )


def _goal(limit: float, better: Better, each: Figure) -> Figure:
    """The figure with its goal, which only the report has."""
    return replace(each, budget=limit, better=better)


def _bar(label: str, each: Figure) -> Bar:
    return Bar(label, each.value, f"{number(each.value)} {each.unit}", spread=each.spread)


MEASURES: tuple[Callable[[Subject], Section], ...] = (
    first_output,
    tokens,
    reloads,
    cache,
    skills,
    speedups,
    resumes,
)


def unmeasured(measure: Callable[[Subject], Section], error: Exception) -> Section:
    """The section of a measure that failed."""
    title = measure.__name__.replace("_", " ").capitalize()
    return Section(title=title, how="", problem=f"{type(error).__name__}: {error}")
