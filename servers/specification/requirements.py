"""Requirements of a specification: what was asked, what the project's own files say, and what is proposed from them.

None is invented: a requirement that no place of the project supports is left out, except the first, which is the
request itself.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from sage_actors.servers.specification.markdown import Document, code, plain, unmarked
from sage_actors.servers.specification.models import Requirement
from sage_actors.servers.specification.places import Spot, doc_files
from sage_actors.servers.specification.study import Habit, Study
from sage_actors.servers.specification.survey import Place, is_mechanism
from sage_actors.servers.specification.tests import narrowed, test_file_for
from sage_actors.servers.specification.words import Hit

__all__ = [
    "Requirements",
    "error_base",
    "feature_requirements",
    "finish_requirements",
    "habit_with_place",
    "project_requirements",
]

_MUST = re.compile(
    r"\b(must|shall|should|never|always|(?:is|are) required|not (?:yet )?supported|TODO|FIXME|missing|lack(?:s|ing)?"
    r"|(?<!you )need(?:s|ed)? to|is needed|deprecated|planned)\b",
    re.IGNORECASE,
)
_NEARLY = 0.75
_MAX_STATED = 4


@dataclass
class Requirements:
    """Collects requirements and numbers them by their kind."""

    document: Document
    listed: list[Requirement] = field(default_factory=list)

    def add(
        self, kind: str, text: str, status: str, rests_on: list[str], acceptance: list[str]
    ) -> Requirement:
        """kind: FR or NFR. Places in `rests_on` were cited already."""
        number = 1 + sum(1 for known in self.listed if known.id.startswith(f"{kind}-"))
        made = Requirement(
            id=f"{kind}-{number}",
            text=text,
            status=status,  # type: ignore[arg-type]
            rests_on=list(dict.fromkeys(rests_on)),
            acceptance=[line for line in acceptance if line],
        )
        self.listed.append(made)
        return made


def feature_requirements(study: Study, found: list[Spot], into: Requirements) -> None:
    """What was asked for; how it fits what is there; what the project's texts say about it."""
    topic, document = study.topic, into.document
    into.add(
        "FR",
        f"“{plain(topic.text)}”, in the sense of the answers to the open questions.",
        "asked",
        [],
        [_new_test(study, found)],
    )
    _existing(study, into)
    hooks = [spot for spot in found if spot.role.startswith("a way") and is_mechanism(spot.symbol)]
    if hooks:
        hook = hooks[0]
        place = document.at_place(hook.symbol)
        tests = [f"{document.at(test.path, test.line)} still passes" for test in hook.tests[:1]]
        into.add(
            "FR",
            f"It is put in place through a mechanism that is there: {code(hook.symbol.name)} ({place}), or another of"
            " those under “Where it would go”; code that does not ask for it does not change its behaviour.",
            "proposed",
            [f"{hook.symbol.path}:{hook.symbol.line}"],
            [*tests, *_whole_suite(study)],
        )
    for hit in stated(study):
        into.add(
            "FR",
            f"It keeps to what is written: “{plain(unmarked(hit.text))}” ({document.at(hit.path, hit.line, 'said')})",
            "from evidence",
            [hit.place],
            [],
        )


def _existing(study: Study, into: Requirements) -> None:
    """Where the code has the thing already, the new one must not stand beside it."""
    hits = [
        hit
        for hit in study.survey.whole("code")
        if study.sources.is_product(hit.path) and study.sources.symbol_at(hit.path, hit.line) is not None
    ]
    if not hits:  # or they stand in no definition: names of headers, lists of constants
        return
    shown = ", ".join(into.document.at(hit.path, hit.line) for hit in _spread(hits, 3))
    into.add(
        "FR",
        f"It builds on what the code has under these words already ({shown}) and does not repeat it.",
        "from evidence",
        [hit.place for hit in _spread(hits, 3)],
        [],
    )


def _spread(hits: list[Hit], limit: int) -> list[Hit]:
    """One of each file first."""
    seen: Counter[str] = Counter()
    ranked = []
    for hit in hits:
        ranked.append((seen[hit.path], hit))
        seen[hit.path] += 1
    return [hit for _, hit in sorted(ranked, key=lambda pair: pair[0])][:limit]


def stated(study: Study) -> list[Hit]:
    """Sentences of documentation and notes in code that say what should be, about the thing that is asked for: of it
    as much as the best say, nearly, so that what shares its common words alone is none."""
    hits = study.survey.whole("documentation", "code")
    least = _NEARLY * max(map(study.survey.told, hits), default=0.0)
    said = [hit for hit in hits if _MUST.search(hit.text) and study.survey.told(hit) >= least]
    prose = [hit for hit in said if hit.kind != "code" or re.search(r"TODO|FIXME", hit.text)]
    whole = {
        (hit.path, hit.line): hit for hit in (study.survey.sentence(hit) for hit in prose) if hit is not None
    }
    return list(whole.values())[:_MAX_STATED]


def _new_test(study: Study, found: list[Spot]) -> str:
    """A test that fails today, in the file where the project would have it."""
    if study.test_check is None:
        return ""
    for spot in found:
        path = test_file_for(spot.symbol.path, spot.tests, study.sources)
        if path:
            state = "in" if study.sources.has(path) else "in a new"
            command = narrowed(study.test_check_of(path), path)
            run = f": {code(command)}" if command else ""
            return f"a test, for instance {state} {code(path)}, fails without it and passes with it{run}"
    return f"a new test fails without it and passes with it: {code(study.test_check.text)}"


def _whole_suite(study: Study) -> list[str]:
    return [f"{code(study.test_check.text)} passes as before"] if study.test_check else []


def project_requirements(study: Study, found: list[Spot], into: Requirements) -> None:
    """What the project asks of every change, by its own files."""
    for add in (_versions, _errors, _habits, _dependencies, _static_checks, _written_down):
        add(study, found, into)


def _versions(study: Study, found: list[Spot], into: Requirements) -> None:
    runtime = study.facts.runtime
    if runtime is not None:
        place = into.document.at_place(runtime, "supported versions")
        text = f"It runs on every version that is supported: {plain(runtime.text)} ({place})."
        into.add("NFR", text, "from evidence", [f"{runtime.path}:{runtime.line}"], [])


def _errors(study: Study, found: list[Spot], into: Requirements) -> None:
    """The base that most error types share, if most do; in languages without bases the file that has most."""
    errors = study.survey.errors
    shared = error_base(study)
    if shared is not None:
        base, place, count = shared
        text = (
            f"What goes wrong in it is raised as a subclass of {code(base)}"
            f" ({into.document.at_place(place, 'error types')}),"
            f" as {count} of the {len(errors)} error types are."
        )
    elif len(errors) > 2:
        (path, count), *_ = Counter(place.path for _, _, place in errors).most_common(1)
        if count < _NEARLY * len(errors):
            return
        first = next((name, place) for name, _, place in errors if place.path == path)
        text = (
            f"Its errors are defined where the others are: {count} of {len(errors)} stand in {code(path)},"
            f" such as {code(first[0])} ({into.document.at_place(first[1], 'error types')})."
        )
        place = first[1]
    else:
        return
    into.add("NFR", text, "proposed", [str(place)], [])


def error_base(study: Study) -> tuple[str, Place, int] | None:
    """The error type that most others descend from, where it stands, and of how many it is the root."""
    errors = study.survey.errors
    roots = _roots(errors)
    base, count = roots.most_common(1)[0] if roots else ("", 0)
    place = next((place for name, _, place in errors if name == base), None)
    return (base, place, count) if place is not None and count > 1 and count * 2 >= len(errors) else None


def _roots(errors: list[tuple[str, str, Place]]) -> Counter[str]:
    """How many error types descend from each that descends from none of them."""
    base_of = {name: base.rpartition(".")[2] for name, base, _ in errors}
    counts: Counter[str] = Counter()
    for name in base_of:
        root, steps = name, 0
        while base_of.get(root) in base_of and steps < 20:
            root, steps = base_of[root], steps + 1
        if root != name:
            counts[root] += 1
    return counts


def _habits(study: Study, found: list[Spot], into: Requirements) -> None:
    habits = [habit for habit in study.habits if habit.binds and habit.category != "architecture"][:5]
    if habits:
        said = "; ".join(habit_with_place(habit, into.document) for habit in habits)
        rests = [f"{habit.path}:{habit.line}" for habit in habits if habit.path]
        into.add("NFR", f"It is written as the code around it: {said}.", "from evidence", rests, [])


def habit_with_place(habit: Habit, document: Document) -> str:
    """The statement with a line that shows it, or the word that it was counted."""
    place = document.at(habit.path, habit.line, "habit") if habit.path else "counted over its sources"
    return f"{plain(habit.statement).rstrip('.')} ({place})"


def _dependencies(study: Study, found: list[Spot], into: Requirements) -> None:
    needed = study.facts.dependencies
    if not needed or study.facts.manifest is None:
        return
    place = into.document.at(needed[0].source, needed[0].line, "dependencies")
    names = ", ".join(code(one.name) for one in needed[:6]) + (", …" if len(needed) > 6 else "")
    number = str(len(needed)) if len(needed) > 1 else "one"
    text = (
        f"It needs no package beyond the {number} that the project depends on ({names}; {place}),"
        " or the maintainers agree to one."
    )
    into.add(
        "NFR",
        text,
        "proposed",
        [f"{needed[0].source}:{needed[0].line}"],
        [f"the dependencies in {code(needed[0].source)} are as they were"],
    )


def _static_checks(study: Study, found: list[Spot], into: Requirements) -> None:
    checks = [check for check in study.checks if check.kind != "test"][:4]
    if checks:
        cited = [into.document.at(*_split(check.source), check.kind) for check in checks]
        said = ", ".join(f"{code(check.text)} ({place})" for check, place in zip(checks, cited, strict=True))
        into.add(
            "NFR",
            f"The project's own checks pass: {said}.",
            "from evidence",
            [c.source for c in checks],
            [f"{code(c.text)} passes" for c in checks],
        )


def _written_down(study: Study, found: list[Spot], into: Requirements) -> None:
    document, places, parts = into.document, [], []
    for fact in doc_files(study, [spot.symbol for spot in found]):
        parts.append(f"beside {code(fact.text)} in {document.at_place(fact, 'documentation')}")
        places.append(f"{fact.path}:{fact.line}")
    if study.facts.changelog:
        log = study.facts.changelog
        parts.append(
            f"as an entry of the change log, whose newest is {code(log.text)}"
            f" ({document.at(log.path, log.line, 'change log')})"
        )
        places.append(f"{log.path}:{log.line}")
    if parts:
        into.add(
            "NFR",
            f"It is written down {', and '.join([', '.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)}.",
            "proposed",
            places,
            [],
        )


def _split(place: str) -> tuple[str, int]:
    path, _, line = place.rpartition(":")
    return path, int(line)


def finish_requirements(study: Study, into: Requirements) -> None:
    """What is asked of a change that adds nothing: the checks pass and the change log tells of it."""
    _static_checks(study, [], into)
    _written_down(study, [], into)
