"""The specification of an enhancement: what the topic touches, measured before, so that "better" can be seen."""

from __future__ import annotations

import math
import re
from collections import Counter

from sage_actors.messages.units import counted
from sage_actors.servers.specification import background, sections
from sage_actors.servers.specification.feature import questions
from sage_actors.servers.specification.markdown import Document, code, plain
from sage_actors.servers.specification.measured import Measured
from sage_actors.servers.specification.places import Spot, near, spots
from sage_actors.servers.specification.requirements import Requirements, project_requirements
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.tests import narrowed, tests_of_file

__all__ = ["FileFigures", "measure", "write_enhancement"]

_BRANCH = re.compile(r"\b(if|elif|for|while|except|catch|case|match|and|or|switch|select)\b|&&|\|\||\?\s")
_MAX_FILES = 6
_DECLARING = (".d.ts", ".d.mts", ".d.cts", ".pyi")  # nothing runs there
_MAX_FUNCTIONS = 6
_SPEAKS_AS_MUCH = 0.8  # of the words of the topic in the file with most of them
_LEAST_OF_CLOSE, _LEAST_OF_OTHERS = 0.05, 0.25  # of what there is to gain in the best file


class FileFigures:
    """What is counted in one file; each figure can be counted again after the change."""

    def __init__(self, study: Study, path: str) -> None:
        lines = study.sources.lines(path)
        self.path = path
        self.lines = len(lines)
        self.definitions = len(study.sources.symbols_of(path))
        code_lines = [line for line in lines if not re.match(r"\s*(#|//|\*|/\*)", line)]
        self.branches = sum(len(_BRANCH.findall(line)) for line in code_lines)
        self.commits = study.churn[path]
        self.notes = sum(1 for line in lines if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line))
        self.tests = tests_of_file(path, study.sources, study.survey.words)
        self.hot = study.evidence.measured.of(path)

    @property
    def weight(self) -> int:
        """How much there is to gain: what is complex and changes often. By branches where nobody measured more."""
        complexity = self.hot.complexity if self.hot is not None else self.branches
        return complexity * (1 + self.commits)


def measure(study: Study) -> list[FileFigures]:
    """The files that the topic touches, and measured hot spots; first what weighs most for the topic.

    What is complex elsewhere, or for the most part about something else, is no gain for the topic: what a file weighs
    counts by the share of its lines that have words of the topic. Where definitions bear its name, files without any
    are there only if they weigh something beside the best, or have as many of its words.
    """
    rarity = _rarity(study)
    worded = _worded(study, rarity)
    close = {candidate.symbol.path for candidate in near(study)}
    touched = {*close, *(path for path, _ in worded.most_common(_MAX_FILES))}
    touched.update(item.source for item in study.evidence.items if study.sources.is_product(item.source))
    touched.update(
        spot.path for spot in study.evidence.measured.hot_spots if study.sources.is_product(spot.path)
    )
    if not touched:
        touched.update(spot.symbol.path for spot in spots(study))
    figures = [FileFigures(study, path) for path in sorted(touched) if not path.endswith(_DECLARING)]

    def gain(f: FileFigures) -> float:
        share = max(1.0, worded[f.path]) / max(1, f.lines)
        named = sum(rarity[part] for part in study.survey.words.stems(f.path) if part in rarity)
        return f.weight * share * (1 + (f.path in close)) * (1 + named)

    figures.sort(key=lambda f: (-gain(f), f.path))
    if any(f.path in close for f in figures):
        best, most = gain(figures[0]), max(worded[f.path] for f in figures)
        figures = [
            f
            for f in figures
            if gain(f) >= best * (_LEAST_OF_CLOSE if f.path in close else _LEAST_OF_OTHERS)
            or (
                f.weight and worded[f.path] >= _SPEAKS_AS_MUCH * most
            )  # without branches it only passes names on
        ]
    return figures[:_MAX_FILES]


def _rarity(study: Study) -> dict[str, float]:
    """How much each stem of the topic says, of 1 in all: the fewer files of the product have it, the more."""
    files: dict[str, set[str]] = {part: set() for part in study.topic.stems}
    for hit in study.survey.hits:
        if study.sources.is_product(hit.path):
            for part in hit.stems:
                files[part].add(hit.path)
    total = len(study.sources.files("code")) + 1
    weights = {part: math.log(1 + total / (1 + len(paths))) for part, paths in files.items() if paths}
    return {part: weight / sum(weights.values()) for part, weight in weights.items()}


def _worded(study: Study, rarity: dict[str, float]) -> Counter[str]:
    """The lines of each file that have words of the topic, by what those say; several on one line say more."""
    found: Counter[str] = Counter()
    for hit in study.survey.hits:
        if study.sources.is_product(hit.path):
            found[hit.path] += sum(rarity[part] for part in hit.stems) * len(hit.stems)  # type: ignore[assignment]
    return found


def write_enhancement(study: Study, document: Document) -> tuple[Requirements, list[Spot], list[str]]:
    """All sections of the document; the requirements, the places and the questions in it."""
    figures = measure(study)
    found = [spot for spot in spots(study) if spot.role == "near the topic"] or spots(study)
    into = Requirements(document)
    document.add(f"# Enhancement: {plain(study.topic.text, 120)}")
    document.heading("Summary")
    document.bullet(f"**Asked for:** {plain(study.topic.text)}")
    sections.project_line(study, document)
    if figures:
        worst = figures[0]
        place = document.at(worst.path, 1, "measured")
        document.bullet(f"**Most to gain:** {code(worst.path)} ({place}): {_said(worst)}.")
    sections.existing(study, document)
    _hot_spots(study, figures, document)
    sections.where(study, document, found)
    sections.constraints(study, document)
    _require(study, figures, into)
    project_requirements(study, found, into)
    sections.requirements(into.listed, document)
    background.alternatives(study, document)
    background.history(study, document)
    figured = "those under “Before” are what was measured." if figures else "nothing was measured."
    asked = [f"What is better, and by how much? The request gives no figure; {figured}"]
    asked += questions(study, document, found)
    sections.open_questions(asked, document)
    sections.evidence_table(document)
    return into, found, asked


def _said(figures: FileFigures) -> str:
    hot = figures.hot
    parts = [
        counted(figures.lines, "line"),
        f"complexity {hot.complexity}" if hot else counted(figures.branches, "branch", "branches"),
    ]
    parts += [counted(figures.commits, "commit")] if figures.commits else []
    parts.append(f"tested in {code(figures.tests[0])}" if figures.tests else "no test found for it")
    return ", ".join(parts)


def _hot_spots(study: Study, figures: list[FileFigures], document: Document) -> None:
    document.heading("Before: what was measured")
    if not figures:
        document.undetermined("no file of the project's code is near the topic.")
        return
    commits = len(study.sources.history)
    document.add(
        f"Branches are counted by keyword, commits among the {commits} known here; complexity is cyclomatic, of all"
        " functions of the file, where it was measured. They are ranked by complexity, commits and"
        " the share of their lines that have words of the topic.",
        "",
    )
    rows = []
    for f in figures:
        place = document.at(f.path, 1, "measured")
        tests = ", ".join(document.at(test, 1, "tests") for test in f.tests[:2]) or "none found"
        cells = (f.lines, f.definitions, f.branches, f.hot.complexity if f.hot else "-", f.commits, f.notes)
        rows.append((place, *map(str, cells), tests))
    document.table(
        ("file", "lines", "definitions", "branches", "complexity", "commits", "TODOs", "tests"), rows
    )
    _functions(study.evidence.measured, {f.path for f in figures}, document)


def _functions(measured: Measured, paths: set[str], document: Document) -> None:
    """Where in those files the complexity is."""
    functions = [each for each in measured.functions if each.path in paths]
    if functions:
        document.add("", "The most complex functions:", "")
    for each in functions[:_MAX_FUNCTIONS]:
        place = document.at(each.path, each.line, "complexity")
        document.bullet(
            f"{code(each.name)} ({place}): complexity {each.complexity}, {each.lines} lines, nested {each.nesting} deep"
        )
    repeated = [each for each in measured.repetitions if any(_split(place)[0] in paths for place in each)]
    if repeated:
        document.add("", "The same code more than once:", "")
    for places in repeated[:_MAX_FUNCTIONS]:
        shown = (document.at(*_split(place), "repeated") for place in places[:4])
        document.bullet(f"{', '.join(shown)}{', …' if len(places) > 4 else ''}")


def _split(place: str) -> tuple[str, int]:
    path, _, line = place.rpartition(":")
    return path, int(line)


def _require(study: Study, figures: list[FileFigures], into: Requirements) -> None:
    rests = [f"{f.path}:1" for f in figures[:3]]
    acceptance = []
    if figures:
        acceptance = [
            f"the measure that is agreed on is better than before; {code(figures[0].path)} now has {_said(figures[0])}"
        ]
    into.add("FR", f"Better than it is: {plain(study.topic.text)}.", "asked", rests, acceptance)
    tested = [f for f in figures[:3] if f.tests]
    if tested and study.test_check:
        names = ", ".join(code(f.path) for f in tested)
        commands = dict.fromkeys(narrowed(study.test_check_of(f.tests[0]), f.tests[0]) for f in tested)
        text = f"Callers of {names} see no change but what was asked for."
        into.add(
            "FR",
            text,
            "proposed",
            [f"{f.path}:1" for f in tested],
            [f"{code(c)} passes" for c in commands if c],
        )
    for f in figures[:3]:
        if not f.tests:
            text = f"{code(f.path)} gets a test of what it does today before it is changed: none was found."
            into.add("FR", text, "proposed", [f"{f.path}:1"], [])
