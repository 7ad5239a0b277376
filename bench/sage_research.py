"""How much research a run looks at, and how much of it is passed on: bytes and tokens, on real repositories.

    read        every passage of the repository: documents, sources, tests, settings, packages, history
    candidates  passages that the index ranked for the topic, with the titles and paths that it looks at, each once
                however many tools got it, and the patterns that were counted: what a search hands on that leaves
                the choice to its reader
    found       what the tools held to be on the topic (`raw_bytes` of the run's events)
    passed on   what later steps were given (`kept_bytes` of the run's events)

`found` and `passed on` are of the run itself, carried out by the command line. `candidates` are counted by calling the
same tools with the same arguments once more, in this process.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Benchmark, Figure, Size, figure
from bench.sage_ground import (
    TOPICS,
    Told,
    command_line,
    copied,
    name_of,
    remove_traces,
    repositories,
    run_sage_group,
    template_data,
)
from sage_actors.messages.passages import Passage
from sage_actors.messages.ranking import PassageIndex, Ranked
from sage_actors.messages.tokens import count_tokens, tokenizer_name
from sage_actors.servers.catalog import create_server
from sage_actors.servers.settings import ServerSettings

__all__ = ["BENCHMARKS", "Amount", "Sifted", "edges", "sifted"]

_RESEARCH = ("sage-research", "sage-patterns")
_INPUT = "${inputs.topic}"


@dataclass(frozen=True, slots=True)
class Amount:
    """A text's size. tokens: by `tokenizer_name()`."""

    size_bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.size_bytes + other.size_bytes, self.tokens + other.tokens)

    def __str__(self) -> str:
        return f"{self.size_bytes:,} bytes ({self.tokens:,} tokens)"


@dataclass(slots=True)
class Sifted:
    """One template on one repository. Amounts of its research; handed_*: along every edge of the whole run.

    handed_candidates: if research handed on its candidates, and each other step all that it found.
    handed_found: if every step handed on all that it found.
    """

    repository: str
    template: str
    read_bytes: int
    candidates: Amount
    found: Amount
    passed: Amount
    handed_candidates: int = 0
    handed_found: int = 0
    handed: int = 0
    passages: int = 0

    @property
    def fewer_percent(self) -> float:
        """How many fewer tokens are handed on than there were candidates and results."""
        return 100 * (1 - self.handed / max(1, self.handed_candidates))

    @property
    def fewer_than_found_percent(self) -> float:
        return 100 * (1 - self.handed / max(1, self.handed_found))

    def line(self) -> str:
        """All of it, for a note."""
        return (
            f"{self.repository}, {self.template}: read {self.read_bytes:,} bytes, candidates {self.candidates}, "
            f"found {self.found}, passed on {self.passed}"
        )


def sifted(repository: Path, template: str, told: Told, project: Path) -> Sifted:
    """What `told`, a run of `template` in `project`, says; and the candidates, counted."""
    data = template_data(template)
    nodes = {f"{phase['id']}/{each['id']}": each for phase in data["phases"] for each in phase["operations"]}
    seen = asyncio.run(_candidates(project, nodes, TOPICS[template]))
    events = told.succeeded
    raw = {node: _amount(events.get(node, {}), "raw") for node in nodes}
    kept = {node: _amount(events.get(node, {}), "kept") for node in nodes}
    research = [node for node, each in nodes.items() if each.get("server") in _RESEARCH]
    unranked = [node for node in research if node not in seen.ranked]
    handed_on = edges(nodes)
    return Sifted(
        repository=name_of(repository),
        template=template,
        read_bytes=seen.read_bytes,
        candidates=sum((raw[each] for each in unranked), _size_of(seen.passages())),
        found=sum((raw[each] for each in research), Amount()),
        passed=sum((kept[each] for each in research), Amount()),
        handed_candidates=sum(seen.tokens.get(source, raw[source].tokens) for _, source in handed_on),
        handed_found=sum(raw[source].tokens for _, source in handed_on),
        handed=sum(kept[source].tokens for _, source in handed_on),
        passages=len(seen.passages()),
    )


def _amount(event: Mapping[str, Any], which: str) -> Amount:
    return Amount(int(event.get(f"{which}_bytes") or 0), int(event.get(f"{which}_tokens") or 0))


def edges(nodes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(node, whose whole result it is given), by the references in its arguments, each once.

    What takes a part of a result (`${write | path}`) is no edge: a path is not what was found.
    """
    from sage_actors.supervisor.definitions.references import find_references
    from sage_actors.supervisor.definitions.validation import resolve_name

    found = dict.fromkeys(
        (name, resolve_name(reference.name, name.partition("/")[0]))
        for name, each in nodes.items()
        for reference in find_references(each["arguments"])
        if reference.kind == "node" and reference.expression is None
    )
    return list(found)


# ------------------------------------------------------------------ candidates


@dataclass(slots=True)
class _Seen:
    """What was ranked, by node. tokens: of a node's candidates."""

    read_bytes: int = 0
    ranked: dict[str, set[Passage]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def passages(self) -> set[Passage]:
        return set().union(*self.ranked.values())


async def _candidates(project: Path, nodes: Mapping[str, Mapping[str, Any]], topic: str) -> _Seen:
    """Each research tool called as the template calls it, and what the index gave it."""
    from mcp import Client

    seen = _Seen()
    settings = ServerSettings(project)
    async with Client(create_server(_RESEARCH[0], settings)) as client:
        for name, each in nodes.items():
            if each.get("server") != _RESEARCH[0]:
                continue
            arguments = {key: topic if said == _INPUT else said for key, said in each["arguments"].items()}
            with _counted() as ranked:
                result = await client.call_tool(each["tool"], arguments)
            if result.is_error:
                raise RuntimeError(f"{each['tool']} failed: {result.content}")
            if ranked:
                seen.ranked[name] = ranked
                seen.tokens[name] = _size_of(ranked).tokens
    seen.read_bytes = _read_bytes(project)
    return seen


@contextmanager
def _counted() -> Iterator[set[Passage]]:
    """Collects what every index of this process ranks meanwhile."""
    ranked: set[Passage] = set()
    search = PassageIndex.search

    def counting(index: PassageIndex, *given: Any, **options: Any) -> list[Ranked]:
        found = search(index, *given, **options)
        ranked.update(each.passage for each in found)
        return found

    PassageIndex.search = counting  # type: ignore[method-assign, assignment]
    try:
        yield ranked
    finally:
        PassageIndex.search = search  # type: ignore[method-assign]


def _read_bytes(project: Path) -> int:
    from sage_actors.servers.corpus.corpus import corpus_of

    return sum(len(_utf8(piece.passage.text)) for piece in corpus_of(project).pieces)


def _size_of(passages: set[Passage]) -> Amount:
    text = "\n".join(sorted(each.text for each in passages))
    return Amount(len(_utf8(text)), count_tokens(text))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# ------------------------------------------------------------------ figures


def measure_templates(size: Size) -> list[Figure]:
    """Every template on every repository; in quick size the feature template alone, on the first."""
    found = [
        each
        for repository in (repositories()[:1] if size.quick else repositories())
        for each in _on(repository, ["feature"] if size.quick else list(TOPICS))
    ]
    features = [each for each in found if each.template == "feature"]
    by = f"tokens by {tokenizer_name()}; "
    lines = "; ".join(each.line() for each in found)
    return [
        figure(
            "research-candidates",
            [min(each.candidates.size_bytes for each in features) / 1e3],
            "KB",
            note=f"the least of {len(features)} repositories, feature template; {by}{lines}",
        ),
        figure(
            "research-passed",
            [max(each.passed.size_bytes for each in features) / 1e3],
            "KB",
            note="the most of the same repositories; JSON of what the research phase hands on, citations included",
        ),
        figure(
            "run-tokens",
            [each.fewer_percent for each in found],
            "%",
            note=by + "; ".join(map(_handed, found)),
        ),
        figure(
            "run-tokens-found",
            [each.fewer_than_found_percent for each in found],
            "%",
            note="the same against handing on only what each tool itself held to be on the topic",
        ),
    ]


def _on(repository: Path, templates: list[str]) -> Iterator[Sifted]:
    for template in templates:
        with copied(repository) as here:
            told = command_line(here, "run", template, TOPICS[template])
            _ = told.end
            remove_traces(here)
            yield sifted(repository, template, told, here.project)


def _handed(one: Sifted) -> str:
    return (
        f"{one.repository}, {one.template}: {one.handed:,} tokens along its edges; with every candidate "
        f"{one.handed_candidates:,}, with all that was found {one.handed_found:,}"
    )


BENCHMARKS: dict[str, Benchmark] = {"templates": measure_templates}

if __name__ == "__main__":
    sys.exit(run_sage_group(str(__doc__), BENCHMARKS))
