"""Holds the audit log and the journals against each other: each names the other's end, and cutting one shows.

    log      record: run R's journal had frame (segment, number) with this tag   -> the journal must have it
    journal  AuditNoted: the log had record N with this mac                      -> the log must have it
    both     how often nodes started, succeeded, failed, ... up to that frame    -> the same numbers

A journal that a crash of the machine or `--repair` shortened is told as a notice, where the run went on since: the log
says from which frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sage_actors.actors.audit.format import Head
from sage_actors.actors.audit.search import FORGOTTEN
from sage_actors.actors.audit.verify import Chain, verify_chain
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal_format import Location
from sage_actors.actors.state.journal_reader import Image
from sage_actors.messages.errors import AuditError, NoCheckpointError
from sage_actors.messages.records import (
    AuditNoted,
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesStarted,
    NodesSucceeded,
    Record,
    RunAdmitted,
    decode_records,
)

__all__ = ["Verified", "verify_audit"]

_ONE = {
    NodeFailed: "node_failed",
    NodeLost: "node_lost",
    NodeSkipped: "node_skipped",
    NodeExpanded: "node_expanded",
}
_MANY = {NodesStarted: "node_started", NodesSucceeded: "node_succeeded"}
_COUNTED = frozenset({*_ONE.values(), *_MANY.values()})
_ATTEMPTS = 2  # a log that grows while it is read


@dataclass(slots=True)
class Verified:
    """A log that proves itself. `runs`: how many of its runs have a journal here that agrees with it."""

    chain: Chain
    runs: int = 0
    notices: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Claims:
    """What the log says of one run's journal. counts: of the transitions in it, up to frame `covered`.

    excused: frames behind the place from which the run went on later; a journal that lost its end has them no more.
    comparable: False where that cannot be told any more.
    """

    tags: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    covered: tuple[int, int] = (0, -1)
    excused: list[tuple[tuple[int, int], str]] = field(default_factory=list)
    comparable: bool = True

    def add(self, fields: dict[str, Any]) -> None:
        for change in fields["changes"]:
            if "after" in change:
                self._shorten(tuple(change["after"]))
            if change["event"] in _COUNTED:
                self.counts[change["event"]] += len(change["nodes"])
        self.covered = self._claim(fields)

    def reseal(self, fields: dict[str, Any]) -> None:
        """All frames were sealed anew under another key: the last one's tag stands for the chain before it."""
        self._shorten((fields["journal"]["segment"], fields["journal"]["seq"]))
        self.comparable = self.comparable and not self.excused
        self.tags.clear()
        self.excused.clear()
        self._claim(fields)

    def _claim(self, fields: dict[str, Any]) -> tuple[int, int]:
        journal = fields["journal"]
        place = (journal["segment"], journal["seq"])
        self.tags[place] = (journal["tag"], fields["seq"])
        return place

    def _shorten(self, end: tuple[int, int]) -> None:
        """The run went on from here: what the log says of later frames may be about frames that are gone."""
        for place in [place for place in self.tags if place > end]:
            self.excused.append((place, self.tags.pop(place)[0]))


def verify_audit(
    state: StateDirectory, keys: KeyRing, *, run_id: str | None = None, heads: tuple[Head, ...] = ()
) -> Verified:
    """Check the log, and the journals of its runs (or of one) against it.

    Raises:
        AuditError: the first thing that does not fit: file and line, or run and frame.
        NoCheckpointError: there is no run of that id.
        StateCorruptedError, WrongKeyError: a journal cannot be read.
    """
    claims: dict[str, _Claims] = {}

    def watch(fields: dict[str, Any]) -> None:
        run = fields["run"]
        if run is None or (run_id is not None and run != run_id):
            return
        if fields["event"] in FORGOTTEN:
            claims.pop(run, None)
        elif fields["event"] == "states":
            claims.setdefault(run, _Claims()).add(fields)
        elif fields["event"] == "run_resealed":
            claims.setdefault(run, _Claims()).reseal(fields)

    found = Verified(verify_chain(state, keys, heads=heads, watch=watch))
    noted: list[tuple[str, Head]] = []
    there = state.run_ids() if run_id is None else [run_id]
    for run in sorted({*claims, *there}):
        noted += _check_run(state, keys, run, claims.get(run, _Claims()), found)
    _check_noted(state, keys, found.chain, noted)
    return found


def _check_run(
    state: StateDirectory, keys: KeyRing, run: str, said: _Claims, found: Verified
) -> list[tuple[str, Head]]:
    """The heads that the run's journal noted, once it has what the log says of it."""
    if not state.exists(run):
        if not said.tags:
            raise NoCheckpointError(
                f"there is no run {run!r} in {state.root}, and the audit log knows of none"
            )
        raise AuditError(
            f"run {run}: the audit log has its frames and no record of their removal, and its journal is gone"
        )
    noted: list[tuple[str, Head]] = []
    missing, seen = dict(said.tags), dict.fromkeys((place for place, _ in said.excused), "")
    counts: Counter[str] = Counter()
    for location, tag, records in _frames(state, keys, run):
        place = (location.segment, location.number)
        tag_said, line = missing.pop(place, (tag, 0))
        if place in seen:
            seen[place] = tag
        if tag_said != tag:
            raise AuditError(
                f"run {run}: frame {place[1]} of segment {place[0]} is not the one that record {line} of "
                "the audit log names"
            )
        if place <= said.covered:
            counts.update(_tally(records))
        for each in records:
            if type(each) is RunAdmitted and each.header and each.header["run_id"] != run:
                raise AuditError(f"run {run}: in its place lies the journal of run {each.header['run_id']}")
        noted += [(run, Head(each.number, each.digest.hex())) for each in records if type(each) is AuditNoted]
    if missing:
        place, (_, line) = min(missing.items())
        raise AuditError(
            f"run {run}: its journal was cut: frame {place[1]} of segment {place[0]}, which record {line} of the audit "
            "log names, is not there"
        )
    if said.tags:
        shortened = any(seen[place] != tag for place, tag in said.excused)
        _check_counts(run, said, counts, found, shortened=shortened)
    return noted


def _check_counts(run: str, said: _Claims, counts: Counter[str], found: Verified, *, shortened: bool) -> None:
    if shortened:
        found.notices.append(
            f"run {run}: its journal was shorter once than the log knew it, and the run went on from there: a "
            "repair, a loss of power, or somebody cut it"
        )
    elif counts != said.counts and said.comparable and not found.chain.pruned:
        raise AuditError(
            f"run {run}: the audit log and the journal count differently: {_told(said.counts)}; {_told(counts)}"
        )
    found.runs += 1


def _frames(state: StateDirectory, keys: KeyRing, run: str) -> Iterator[tuple[Location, str, list[Record]]]:
    """Each frame's place, tag and records, as far as the journal is valid."""
    image = Image(state.run_dir(run), keys)
    for location, plaintext in image.frames:
        yield location, image.last_tag.hex(), decode_records(plaintext)


def _tally(records: list[Record]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in records:
        if isinstance(record, (NodesStarted, NodesSucceeded)):
            counts[_MANY[type(record)]] += len(record.rows)
        elif (name := _ONE.get(type(record))) is not None:
            counts[name] += 1
    return counts


def _check_noted(state: StateDirectory, keys: KeyRing, chain: Chain, noted: list[tuple[str, Head]]) -> None:
    """Every head that a journal noted is in the log. A run that goes on may note one that was written since."""

    def wrong() -> list[tuple[str, str]]:
        return [(run, reason) for run, head in noted if (reason := chain.differs(head))]

    missing = wrong()
    for _ in range(_ATTEMPTS):
        if not missing:
            return
        chain = verify_chain(state, keys)
        missing = wrong()
    if missing:
        run, reason = missing[0]
        raise AuditError(f"the audit log does not have what the journal of run {run} noted of it: {reason}")


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"
