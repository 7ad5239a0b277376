"""The specification of a bug's fix: the error, where it leads, which code is suspected, how to reproduce it."""

from __future__ import annotations

from sage_actors.messages.units import counted
from sage_actors.servers.documents.slugs import headline
from sage_actors.servers.specification import background, sections
from sage_actors.servers.specification.markdown import Document, block, code, plain
from sage_actors.servers.specification.places import Spot
from sage_actors.servers.specification.requirements import Requirements, finish_requirements
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.survey import Place
from sage_actors.servers.specification.suspects import Investigation
from sage_actors.servers.specification.tests import TestFile, find_tests, narrowed, new_test_path

__all__ = ["write_bugfix"]

_MAX_TEXT_LINES = 60
_QUOTED = 4


def write_bugfix(study: Study, document: Document) -> tuple[Requirements, list[Spot], list[str]]:
    """All sections of the document; the requirements, the suspects and the questions in it."""
    looked = Investigation(study)
    into = Requirements(document)
    found = [
        Spot(s.symbol, "suspect", s.reasons, find_tests(s.path, study.sources, study.survey.words, s.symbol))
        for s in looked.suspects
        if s.symbol is not None
    ]
    document.add(f"# Bug: {plain(study.title, 120)}")
    _summary(study, looked, document)
    _error(study, looked, document)
    _places(study, looked, document)
    _suspects(looked, document)
    _tests(looked, found, document)
    commands = _reproduction(study, looked, found, document)
    sections.constraints(study, document)
    _require(study, looked, commands, into)
    finish_requirements(study, into)
    sections.requirements(into.listed, document)
    background.history(study, document)
    asked = _questions(study, looked)
    sections.open_questions(asked, document)
    sections.evidence_table(document)
    return into, found, asked


def _summary(study: Study, looked: Investigation, document: Document) -> None:
    document.heading("Summary")
    for kind, text in looked.messages[:3]:
        document.bullet(f"**Error:** {code(kind)}" + (f": {plain(text)}" if text else ""))
    if not looked.messages:
        document.bullet(f"**Reported:** {plain(headline(study.topic.text))}")
    sections.project_line(study, document)
    if looked.suspects:
        first = looked.suspects[0]
        where = document.at(first.path, first.line, "suspect")
        document.bullet(f"**First suspect:** {code(first.name)} ({where}): {'; '.join(first.reasons)}.")


def _error(study: Study, looked: Investigation, document: Document) -> None:
    document.heading("The error as reported")
    lines = study.topic.text.strip().splitlines()
    if len(lines) > _MAX_TEXT_LINES:
        left_out = len(lines) - _MAX_TEXT_LINES
        lines = [*lines[:20], f"... {left_out} lines left out ...", *lines[-(_MAX_TEXT_LINES - 20) :]]
    document.add(*block(lines, "text"))
    for number, where in (
        (looked.foreign_frames, "out of this project"),
        (looked.lost_frames, "to lines that its files no longer have"),
    ):
        if number:
            lead = "leads" if number == 1 else "lead"
            document.add("", f"{number} of {counted(len(looked.report.frames), 'frame')} {lead} {where}.")


def _places(study: Study, looked: Investigation, document: Document) -> None:
    """The lines on the stack and those that raise the error, quoted."""
    document.heading("Code it leads to")
    further = [*looked.named, *looked.meant_by_tests, *looked.tested, *looked.sites]
    places = list(dict.fromkeys([*reversed(looked.frames), *further]))
    if not places:
        document.undetermined(
            "the text names no place in this project, and no line of its code has the words of the message."
        )
    for place in places[:_QUOTED]:
        symbol = study.sources.symbol_at(place.path, place.line)
        inside = f", in {code(symbol.name)}" if symbol else ""
        document.add(
            "",
            f"{document.at_place(place, _what(looked, place))}{inside}:",
            "",
        )
        sections.quoted(study, document, place.path, place.line)
    if len(places) > _QUOTED:
        document.add("", "Also: " + ", ".join(document.at_place(place) for place in places[_QUOTED:12]) + ".")


def _what(looked: Investigation, place: Place) -> str:
    if place in looked.frames:
        return "on the stack"
    return "failing test" if place in looked.meant_by_tests or place in looked.tested else "raises it"


def _suspects(looked: Investigation, document: Document) -> None:
    document.heading("Suspects")
    if not looked.suspects:
        document.undetermined("no code of the project was found for this error.")
        return
    document.add("Ranked by the reasons given, the likeliest first; a rank, no finding.", "")
    for number, suspect in enumerate(looked.suspects, 1):
        where = document.at(suspect.path, suspect.line, "suspect")
        document.add(f"{number}. {code(suspect.name)} ({where}): {'; '.join(suspect.reasons)}")


def _tests(looked: Investigation, found: list[Spot], document: Document) -> None:
    document.heading("Tests that cover it")
    for place in looked.failing_tests:
        document.bullet(
            f"{code(place.text)} ({document.at_place(place, 'failing test')}): named in the report"
        )
    rows: dict[str, tuple[TestFile, list[str]]] = {}
    for spot in found:
        for test in spot.tests[:2]:
            rows.setdefault(test.path, (test, []))[1].append(spot.symbol.name)
    for test, names in rows.values():
        document.bullet(
            f"{document.at(test.path, test.line, 'tests')}: for {', '.join(code(n) for n in names)} ({test.reason})"
        )
    if not rows and not looked.failing_tests:
        document.undetermined("no test was found for the suspects, by name or by mention.")


def _reproduction(study: Study, looked: Investigation, found: list[Spot], document: Document) -> list[str]:
    """The commands that show the error, narrowest first."""
    document.heading("How to reproduce")
    tests = [(place.path, place.text) for place in looked.failing_tests[:2]]
    tests += [(place.path, "") for place in looked.frames if not study.sources.is_product(place.path)]
    tests += [(test.path, "") for spot in found[:1] for test in spot.tests[:1]]
    commands = [narrowed(study.test_check_of(path), path, name) for path, name in tests]
    commands = list(dict.fromkeys(command for command in commands if command))[:3]
    if not commands:
        document.undetermined(
            "the report names no test, and no test command or test of the suspects was found."
        )
    elif not looked.failing_tests:
        document.add(
            "The report names no failing test. These run what is nearest; whether they fail was not tried:",
            "",
        )
    if commands:
        document.add(*block(commands, "sh"))
    return commands


def _require(study: Study, looked: Investigation, commands: list[str], into: Requirements) -> None:
    first = looked.suspects[0] if looked.suspects else None
    rests = [f"{first.path}:{first.line}"] if first else []
    path = looked.failing_tests[0].path if looked.failing_tests else ""
    if not path and first:
        named = find_tests(first.path, study.sources, study.survey.words, first.symbol)
        path = named[0].path if named else new_test_path(first.path, study.sources)
    failing = f" in {code(path)}" if path else ""
    run = f": {code(commands[0])}" if commands else ""
    acceptance = [f"a test{failing} fails with this error before the change, and passes after it{run}"]
    into.add("FR", f"This no longer happens: {plain(headline(study.topic.text))}", "asked", rests, acceptance)
    if study.test_check:
        into.add(
            "FR",
            "What worked before still works.",
            "proposed",
            [study.test_check.source],
            [f"{code(study.test_check.text)} passes"],
        )


def _questions(study: Study, looked: Investigation) -> list[str]:
    asked = []
    if not looked.failing_tests:
        asked.append("Which input shows it? The report names no failing test that is in the project.")
    if not looked.frames:
        asked.append(
            "Where was it raised? The report has no frame in this project; a full traceback would say."
        )
    if len(looked.suspects) > 1 and looked.suspects[1].score > 0.8 * looked.suspects[0].score:
        a, b = looked.suspects[:2]
        asked.append(f"Is the cause in {code(a.name)} or in {code(b.name)}? The evidence for both is alike.")
    for place, said in looked.moved[:1]:
        asked.append(
            f"Which version is the report from? It names {code(said)} at `{place}`, where {code(said)} is not:"
            " the lines have moved since, and what is quoted here may be another place."
        )
    if looked.lost_frames:
        asked.append(
            "Does the report come from this version? Some of its frames are not in the project as it is here."
        )
    return asked
