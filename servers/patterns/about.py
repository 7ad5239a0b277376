"""In which languages the code is written that a topic is about."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sage_actors.servers.corpus.corpus import corpus_of
from sage_actors.servers.patterns.summary import GROUPS

__all__ = ["languages_about"]

_LOOKED_AT = 12  # pieces of code, the best first
_CLOSE = 0.5  # of the best one's score
_SHARE = 0.3  # of their scores


def languages_about(project: Path, topic: str) -> frozenset[str]:
    """The languages of the code that speaks most of `topic`, as patterns name them; none where no code does.

    Where several share it, as a client and its server do, all that have a good part.
    """
    corpus = corpus_of(project)
    found = corpus.search(topic, kinds=("code",), limit=_LOOKED_AT)
    least = _CLOSE * found[0].score if found else 0.0
    scores: Counter[str] = Counter()
    for each in found:
        file = corpus.sources.classes.get(each.piece.passage.source)
        if file is not None and each.score >= least:
            scores[file.language] += each.score  # type: ignore[assignment]
    total = sum(scores.values())
    spoken = {language for language, score in scores.items() if score >= _SHARE * total}
    return frozenset(group for group, members in GROUPS.items() if spoken.intersection(members))
