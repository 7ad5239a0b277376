"""What was there before and beside: packages and links that offer the thing, and commits that spoke of it."""

from __future__ import annotations

import re

from sage_actors.servers.specification.markdown import Document, code, plain, unmarked
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.topic import split_name, stem
from sage_actors.servers.specification.words import Hit

__all__ = ["alternatives", "history", "offered"]

_COMMITS = 6


def alternatives(study: Study, document: Document) -> None:
    """What the declared packages offer, by name, and what research found of the installed ones."""
    document.heading("Alternatives among the packages at hand")
    thing = set(study.topic.thing_stems)
    hits = offered(study)
    items = [item for item in study.evidence.of("dependency") if thing & _words(item.text)]
    said = (study.survey.sentence(hit) for hit in hits)
    for hit in list({(hit.path, hit.line): hit for hit in said if hit is not None}.values())[:4]:
        document.bullet(
            f"“{plain(unmarked(hit.text), 240)}” ({document.at(hit.path, hit.line, 'alternative')})"
        )
    for item in items[:4]:
        document.bullet(f"{plain(item.text, 260)} ({document.at(item.source, item.line, 'package')})")
    sharing = [one for one in study.facts.dependencies if thing & _words(one.name)]
    for one in sharing[:4]:
        place = document.at(one.source, one.line, "package of that name")
        document.bullet(f"{code(one.requirement)} ({place}): its name has words of the topic")
    if not hits and not items and not sharing:
        needed = study.facts.dependencies
        if needed:
            names = ", ".join(code(one.name) for one in needed[:12]) + (", …" if len(needed) > 12 else "")
            place = document.at(needed[0].source, needed[0].line, "dependencies")
            document.undetermined(
                f"of the {len(needed)} packages declared ({names}; {place}) none is known here to do it."
                if len(needed) > 1
                else f"the one package declared ({names}; {place}) is not known here to do it."
            )
        elif study.facts.manifest is not None:
            place = document.at(study.facts.manifest, None, "dependencies")
            document.undetermined(f"the project declares no packages that it needs to run ({place}).")
        else:
            document.undetermined("the project has no manifest that is known here.")


def offered(study: Study) -> list[Hit]:
    """Documentation that names something which does it, by a link or a package: lines with all words of the thing."""
    hits = study.survey.whole("documentation", "configuration")
    return [
        hit for hit in hits if re.search(r"https?://|@[\w-]+/", hit.text) and not hit.text.startswith("|")
    ]


def _words(text: str) -> set[str]:
    return {stem(part) for part in split_name(text)}


def history(study: Study, document: Document) -> None:
    """Commits whose subject speaks of the topic, and what they changed."""
    document.heading("History")
    thing, everything = set(study.topic.thing_stems), set(study.topic.stems)
    scored = []
    for commit in study.sources.history:
        shared = _words(commit.subject) & everything
        if shared & thing and (len(shared) > 1 or len(everything) == 1 or thing <= shared):
            scored.append((len(shared & thing), len(shared), commit))
    scored.sort(key=lambda row: row[:2], reverse=True)
    known = {item.source for item in study.evidence.of("history") if item.source.startswith("git:")}
    named = [
        commit
        for commit in study.sources.history
        if f"git:{commit.commit}" in known or f"git:{commit.commit[:12]}" in known
    ]
    chosen = list(
        {commit.commit: commit for commit in (*(row[2] for row in scored[:_COMMITS]), *named[:3])}.values()
    )
    for commit in chosen[:_COMMITS]:
        files = ", ".join(code(path) for path in commit.files[:4]) + (", …" if len(commit.files) > 4 else "")
        place = document.at(f"git:{commit.commit[:12]}", None, "similar change")
        document.bullet(
            f"{place} {commit.date[:10]}: {plain(commit.subject, 120)}" + (f" ({files})" if files else "")
        )
    if not chosen:
        document.undetermined(_silence(study))


def _silence(study: Study) -> str:
    """Why no commit is shown."""
    count, refusal = len(study.sources.history), study.sources.repository.git_refusal
    if count > 1:
        return f"none of the {count} commits known here speaks of it."
    if count:
        return "the one commit known here does not speak of it."
    return (
        f"git does not read this repository: {plain(refusal, 200)}."
        if refusal
        else "there is no git history here."
    )
