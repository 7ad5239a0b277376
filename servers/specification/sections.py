"""The sections that specifications share: summary, what exists, constraints, history, evidence."""

from __future__ import annotations

import re
from collections import defaultdict

from sage_actors.messages.units import counted
from sage_actors.servers.corpus.sources import Symbol
from sage_actors.servers.specification.evidence import Item
from sage_actors.servers.specification.markdown import (
    Document,
    block,
    code,
    plain,
    shortened,
    unmarked,
)
from sage_actors.servers.specification.models import Requirement
from sage_actors.servers.specification.places import Spot, near
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.survey import is_sentence
from sage_actors.servers.specification.tests import find_tests
from sage_actors.servers.specification.topic import split_name, stem
from sage_actors.servers.specification.words import Hit

__all__ = [
    "constraints",
    "evidence_table",
    "existing",
    "front_matter",
    "open_questions",
    "project_line",
    "requirements",
    "where",
]

_WORDS_ALONE = 3
_QUOTES = 5
_OTHERWISE = 4
_EXAMPLES = 3
_EXAMPLE_FOLDERS = frozenset({"example", "examples", "sample", "samples", "demo", "demos"})
_NEARBY = 10  # lines: what is passed on of a finding may be shorter than what was found
_STRONG = 0.5  # of the best score of its operation
_CODE = re.compile(r"=>|[{};]\s*$|^[\w.]+\(")  # of an example in a document: it says nothing in words


def front_matter(study: Study, document: Document, provenance: str, level: str) -> None:
    """What a reader, or a program, needs to judge the document."""
    repository = study.sources.repository
    fields = [
        ("topic", shortened(study.title, 200)),
        ("kind", study.kind),
        ("project", study.name),
    ]
    fields += [("commit", repository.head)] if repository.head else []
    fields += [("date of commit", repository.head_date[:10])] if repository.head_date else []
    fields += [("made by", "sage-actors, " + ("without a model" if provenance == "local" else provenance))]
    document.front_matter([*fields, ("evidence", level)])


def project_line(study: Study, document: Document) -> None:
    """Which project this is, by its own words."""
    facts = study.facts
    said = [f"**Project:** {plain(study.name)}"]
    said[0] += f" ({document.at_place(facts.name, 'name')})" if facts.name else ""
    if facts.part:
        said.append(f"in it {plain(facts.part.text)} ({document.at_place(facts.part, 'name')})")
    if facts.version:
        said[-1] += f" {plain(facts.version.text)} ({document.at_place(facts.version, 'version')})"
    if facts.purpose:
        said.append(f"“{plain(facts.purpose.text)}” ({document.at_place(facts.purpose, 'purpose')})")
    if facts.languages:
        said.append(", ".join(_counted(facts.languages)))
    document.bullet("; ".join(said) + ".")


def _counted(languages: dict[str, tuple[int, int]]) -> list[str]:
    """The languages that are a fifth of its code, most lines first."""
    total = sum(lines for _, lines in languages.values())
    ranked = sorted(languages.items(), key=lambda item: -item[1][1])
    return [
        f"{counted(lines, 'line')} of {_LANGUAGE.get(name, name)} in {counted(files, 'file')}"
        for name, (files, lines) in ranked
        if lines * 5 >= total
    ] or [f"{counted(total, 'line')} of code"]


_LANGUAGE = {
    "python": "Python",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "go": "Go",
    "rust": "Rust",
    "c": "C",
}


def presence(study: Study, document: Document) -> None:
    """Whether the thing is there already, by the words of the topic on one line."""
    stems, needed = study.topic.thing_stems, study.survey.words_needed
    named = [f"“{plain(word)}”" for word in study.topic.words_of(stems)]
    if not named:
        document.bullet("**Is it there already?** Not determined: the topic names no thing to look for.")
        return
    words = " and ".join(named)
    if needed < len(stems):  # of what is written without spaces a stem is a part of a word
        words = f"{needed if len(named) == len(stems) else 'most'} of {', '.join(named)}"
    together = " together" if len(named) > 1 else ""
    stand = "stands" if len(named) == 1 else "stand"
    told = []
    for kind, name in (
        ("code", "code"),
        ("test", "tests"),
        ("documentation", "documentation"),
        ("history", "change log"),
    ):
        hits = study.survey.whole(kind)
        if hits:
            shown = ", ".join(document.at(h.path, h.line, "words of the topic") for h in hits[:2])
            told.append(f"{counted(len(hits), 'line')} of {name} ({shown}{', …' if len(hits) > 2 else ''})")
    if told:
        no_code = "" if study.survey.whole("code") else f"No line of code has {words}{together}; but "
        subject = words if not no_code else "it" if len(named) == 1 else "they"
        document.bullet(
            f"**Is it there already?** {no_code}{subject} {stand}{together} in {', '.join(told)}."
        )
    else:
        document.bullet(
            f"**Is it there already?** No: {words} {stand}{together} in no line of its code, tests or documentation"
            f" ({counted(len(study.sources.classes), 'file')} looked at)." + _alone(study, document)
        )


def _alone(study: Study, document: Document) -> str:
    """Where the rare words of the thing stand by themselves: it may be there under half of its name."""
    told = []
    for part, hits in list(study.survey.alone("code", "documentation").items())[:_WORDS_ALONE]:
        shown = ", ".join(document.at(hit.path, hit.line, "words of the topic") for hit in hits[:3])
        word = plain(study.topic.word_of(part))
        told.append(f"“{word}” in {counted(len(hits), 'line')} ({shown}{', …' if len(hits) > 3 else ''})")
    return f" By themselves: {'; '.join(told)}." if told else ""


def existing(study: Study, document: Document) -> None:
    """The code that the topic touches, by file, and what the documentation says about it."""
    document.heading("What exists today")
    candidates, quotes = near(study), _quotes(study)
    if not candidates and not quotes and not _found_otherwise(study, set(), []):
        words = ", ".join(f"“{plain(word)}”" for word in study.topic.words_of(study.topic.stems))
        document.undetermined(
            f"no definition is named after {words}, and no documentation speaks of it."
            if words
            else "the topic names no thing to look for."
        )
        return
    by_file = defaultdict(list)
    for candidate in candidates:
        by_file[candidate.symbol.path].append(candidate)
    for path, found in by_file.items():
        document.bullet(f"{code(path)}")
        for candidate in found:
            symbol = candidate.symbol
            doc = study.survey.doc_of(symbol)
            said = f": “{plain(unmarked(doc.text), 140)}”" if doc else ""
            notes = [*candidate.reasons, *_face(study, document, symbol)]
            place = document.at_place(symbol, "near the topic")
            document.bullet(f"{code(symbol.signature, 110)} {place}{said} ({'; '.join(notes)})", 1)
    _by_research(study, document, {(c.symbol.path, c.symbol.line) for c in candidates}, quotes)
    if quotes:
        document.add("", "What is written about it:", "")
        for hit in quotes:
            document.bullet(
                f"“{plain(unmarked(hit.text), 280)}” ({document.at(hit.path, hit.line, hit.kind)})"
            )


def _by_research(study: Study, document: Document, shown: set[tuple[str, int]], quotes: list[Hit]) -> None:
    """What research found beside them, and whether by the topic's words or by others: synonyms, neighbours."""
    items = _found_otherwise(study, shown, quotes)
    enough = min(2, len(study.topic.thing_stems))
    worded = [item for item in items if len(_shared(study, item.text)) >= enough]
    for title, found in (
        ("Also found, by words of the topic in what they say:", worded),
        (
            "Also found, under other words than those of the topic:",
            [item for item in items if not _shared(study, item.text)],
        ),
    ):
        lines = list(filter(None, (_told(study, document, item) for item in found)))
        if lines:
            document.add("", title, "")
        for line in lines:
            document.bullet(line)


def _told(study: Study, document: Document, item: Item) -> str:
    """Of a text the sentence with most of the topic, where it stands; "" where it has none: a list, a heading. Else how
    the finding begins."""
    last = (item.line or 0) + item.text.count("\n") + _NEARBY
    within = [
        hit for hit in study.survey.hits if hit.path == item.source and (item.line or 0) <= hit.line <= last
    ]
    if within and item.kind in ("documentation", "history"):
        said = study.survey.sentence(max(within, key=study.survey.told))
        if said is None:
            return ""
        place = document.at(said.path, said.line, item.operation)
        return f"{place}: “{plain(unmarked(said.text), 200)}” (by {item.operation})"
    place = document.at(item.source, item.line, item.operation)
    return f"{place}: {code(' '.join(item.text.split()), 150)} (by {item.operation})"


def _shared(study: Study, text: str) -> set[str]:
    """The stems of the topic that a text has, as words or as parts of names."""
    found = {stem(part) for part in split_name(text)}
    return found.intersection(study.topic.stems)


def _found_otherwise(study: Study, shown: set[tuple[str, int]], quotes: list[Hit]) -> list[Item]:
    if not study.topic.stems:
        return []  # whatever research found to "make it better" has nothing to do with it
    known = {path for path, _ in shown} | {hit.path for hit in quotes}
    kinds = ("code", "documentation", "history", "todo", "configuration")
    items = [item for item in study.evidence.of(*kinds) if item.source not in known and item.line is not None]
    return [item for item in items if item.score >= _STRONG][:_OTHERWISE]


def _quotes(study: Study) -> list[Hit]:
    """Lines of documentation with all words of the thing; else those with one of them that research cites."""
    hits = study.survey.whole("documentation", "history", "todo")
    if not hits:
        cited = {(item.source, item.line) for item in study.evidence.items}
        thing = set(study.topic.thing_stems)
        hits = [
            hit
            for hit in study.survey.hits
            if hit.kind in ("documentation", "history") and is_sentence(hit.text, 6) and hit.stems & thing
            if (hit.path, hit.line) in cited
        ]
    hits.sort(key=lambda hit: (-study.survey.told(hit), hit.kind != "documentation"))
    per_file: dict[str, int] = defaultdict(int)
    kept = []
    seen = set()
    for said in hits:
        hit = study.survey.sentence(said)
        if hit is None or (hit.path, hit.line) in seen or _CODE.search(hit.text):
            continue
        seen.add((hit.path, hit.line))
        per_file[hit.path] += 1
        if per_file[hit.path] <= 2:
            kept.append(hit)
    return kept[:_QUOTES]


def where(study: Study, document: Document, found: list[Spot]) -> None:
    """Places to begin, settings, errors and the public face."""
    document.heading("Where it would go")
    if not study.sources.files("code"):
        document.undetermined("the project has no code; what is written about the topic stands above.")
    elif not found and not study.topic.stems:
        document.undetermined("the topic names no thing, so that no place fits it better than another.")
    elif not found:
        above = (
            "the definitions above have some of its words only"
            if near(study)
            else "none is named after the topic"
        )
        document.undetermined(
            f"{above}, and none is named as a way to extend the project (middleware, hook, plugin, adapter"
            " and the like)."
        )
    close = [spot for spot in found if spot.role == "near the topic"]
    if close:
        shown = ", ".join(f"{code(spot.symbol.name)} ({document.at_place(spot.symbol)})" for spot in close)
        document.add(f"In or beside the definitions above: {shown}.")
    _models(study, document, close)
    _examples(study, document)
    for role in dict.fromkeys(spot.role for spot in found if spot.role in _ROLE_TITLES):
        document.add("", f"{_ROLE_TITLES[role]}:", "")
        for spot in (spot for spot in found if spot.role == role):
            _spot(study, document, spot)
    _settings(study, document)


def _models(study: Study, document: Document, close: list[Spot]) -> None:
    """What is derived from those definitions already: a new one would be written as these are."""
    for spot in close:
        derived = study.survey.derived_from(spot.symbol)
        if derived:
            shown = ", ".join(
                f"{code(each.name)} ({document.at_place(each, 'model')})" for each in derived[:4]
            )
            more = f" and {len(derived) - 4} more" if len(derived) > 4 else ""
            document.add(
                "", f"Derived from {code(spot.symbol.name)} already, to be read as models: {shown}{more}."
            )


def _examples(study: Study, document: Document) -> None:
    """Examples that do it already: they say how it can be done here."""
    needed, thing = study.survey.words_needed, set(study.topic.thing_stems)
    found = {
        item.source: item.line
        for item in study.evidence.of("code")
        if item.line is not None and needed and len(_shared(study, item.text) & thing) >= needed
    }
    for hit in study.survey.whole("code"):
        found.setdefault(hit.path, hit.line)
    shown = []
    for path, line in found.items():
        symbol = study.sources.symbol_at(path, line)
        if symbol is not None and not _EXAMPLE_FOLDERS.isdisjoint(path.lower().split("/")):
            shown.append(f"{code(symbol.name)} ({document.at(path, line, 'example')})")
    if shown:
        more = ", …" if len(shown) > _EXAMPLES else ""
        said = ", ".join(shown[:_EXAMPLES])
        document.add("", f"Examples that have its words, to be read as models: {said}{more}.")


_ROLE_TITLES = {
    "a way to extend the project": "Ways to extend the project that are there, the most mentioned first",
    "public surface": "The public definitions that tests and documentation mention most",
}


def _spot(study: Study, document: Document, spot: Spot) -> None:
    symbol = spot.symbol
    parts = [f"{code(symbol.name)} ({document.at_place(symbol, spot.role)})"]
    doc = study.survey.doc_of(symbol)
    if doc:
        parts.append(f"“{plain(unmarked(doc.text), 140)}”")
    parts += spot.reasons
    document.bullet("; ".join([*parts, *_face(study, document, symbol)]))


def _face(study: Study, document: Document, symbol: Symbol) -> list[str]:
    """Where the package exports it and which tests it has."""
    exported = study.survey.exported_at(symbol)
    said = [f"exported at {document.at_place(exported, 'export')}"] if exported else []
    tests = find_tests(symbol.path, study.sources, study.survey.words, symbol)[:2]
    if tests:
        said.append("tested in " + ", ".join(document.at(test.path, test.line, "tests") for test in tests))
    return said


def _settings(study: Study, document: Document) -> None:
    settings, reads = study.settings[:3], study.environment_reads
    parts = [f"{code(place.text, 80)} ({document.at_place(place, 'configuration')})" for place in settings]
    if reads:
        shown = document.at_place(reads[0], "environment")
        verb = "reads" if len(reads) == 1 else "read"
        such_as = "" if len(reads) == 1 else "such as "
        parts.append(f"{counted(len(reads), 'line')} that {verb} the environment, {such_as}{shown}")
    if parts:
        document.add("", f"Configuration that is there: {'; '.join(parts)}.")


def constraints(study: Study, document: Document) -> None:
    """What binds any change: by manifest, licence and habits."""
    document.heading("Constraints found")
    facts = study.facts
    rows = []
    for name, fact in (("Versions supported", facts.runtime), ("Licence", facts.licence)):
        if fact:
            rows.append((name, plain(fact.text), document.at_place(fact, name.lower())))
    if facts.manifest:
        needed = facts.dependencies
        said = counted(len(needed), "package") if needed else "none"
        rows.append(
            (
                "Dependencies at run time",
                said,
                document.at(facts.manifest)
                if not needed
                else document.at(needed[0].source, needed[0].line, "dependencies"),
            )
        )
    if facts.contributing:
        rows.append(
            ("Rules for contributions", "to be read first", document.at_place(facts.contributing, "rules"))
        )
    rows += [
        (
            _CATEGORY.get(h.category, h.category or "habit"),
            plain(h.statement),
            document.at(h.path, h.line, "habit") if h.path else "counted over its sources",
        )
        for h in study.habits
    ]
    for check in study.checks:
        path, _, line = check.source.rpartition(":")
        rows.append((f"Check: {check.kind}", code(check.text), document.at(path, int(line), "check")))
    if rows:
        document.table(("what", "found", "where"), rows)
    else:
        document.undetermined("the project has no manifest, licence or check that is known here.")
    if not study.habits:
        why = (
            "none were relevant to the topic"
            if study.patterns_given
            else "the extraction of patterns gave nothing"
        )
        document.add("", f"Habits of the code: not determined, {why}.")


_CATEGORY = {
    "errorHandling": "Errors",
    "naming": "Naming",
    "types": "Types",
    "testing": "Tests",
    "architecture": "Layout",
    "documentation": "Documentation",
    "tooling": "Tools",
    "logging": "Logging",
    "concurrency": "Concurrency",
    "imports": "Imports",
    "style": "Style",
}


def requirements(listed: list[Requirement], document: Document) -> None:
    """Each with its status, what it rests on and how it is seen to hold."""
    document.heading("Requirements")
    document.add(
        "*Asked*: the request itself. *From evidence*: a file of the project says so. *Proposed*: follows from what was"
        " found, and is for the maintainers to accept or strike.",
        "",
    )
    for requirement in listed:
        document.bullet(f"**{requirement.id}** ({requirement.status}) {requirement.text}")
        for line in requirement.acceptance:
            document.bullet(f"Accepted when {line}.", 1)


def open_questions(questions: list[str], document: Document) -> None:
    """What a person has to say before the work begins."""
    document.heading("Open questions")
    if not questions:
        document.undetermined("nothing was left open by the evidence; the request may still be.")
    for number, question in enumerate(questions, 1):
        document.add(f"{number}. {question}")


def evidence_table(document: Document) -> None:
    """Everything that the document cites, by file."""
    document.heading("Evidence")
    by_file: dict[str, list[tuple[int, str, list[str]]]] = defaultdict(list)
    for place, said in document.citations.items():
        path, _, line = place.rpartition(":")
        number = int(line) if path and line.isdigit() and not place.startswith(("git:", "package:")) else 0
        by_file[path if number else place].append((number, place, said))
    rows = []
    for path in sorted(by_file):
        places = sorted(by_file[path])
        said = list(dict.fromkeys(word for _, _, words in places for word in words))
        rows.append((", ".join(code(place) for _, place, _ in places), ", ".join(said) or "named"))
    if rows:
        document.table(("place", "what for"), rows)
    else:
        document.undetermined("nothing was cited.")


def quoted(study: Study, document: Document, path: str, line: int, around: int = 3) -> None:
    """The lines around a place, numbered, the line itself marked."""
    lines = study.sources.lines(path)
    first, last = max(1, line - around), min(len(lines), line + around)
    language = study.sources.classes[path].language if path in study.sources.classes else ""
    width = len(str(last))
    numbered = [f"{'>' if n == line else ' '} {n:>{width}}  {lines[n - 1]}" for n in range(first, last + 1)]
    document.add(*block(numbered, "" if language == "other" else language))
