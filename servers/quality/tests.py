"""Which tests belong to a source file, by its name: `client.py` and `test_client.py`, `a.go` and `a_test.go`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from sage_actors.servers.patterns.facts import FileFacts, is_test_path

__all__ = ["TestsNearby"]

_MARK = re.compile(r"^tests?_|_tests?$|[.-](test|spec)$")
_NAMED_BY_FOLDER = frozenset({"__init__", "__main__", "index", "mod", "lib", "main"})
_SHOWN = 5


class TestsNearby:
    """The test files of a project, by what they are named after."""

    __test__ = False  # pytest: this is no test class

    def __init__(self, paths: Sequence[str]) -> None:
        self._by_subject: dict[str, list[str]] = {}
        for path in filter(is_test_path, paths):
            self._by_subject.setdefault(_subject(path), []).append(path)

    def of(self, facts: FileFacts) -> list[str]:
        """Its test files; the file itself where its tests are in it. The same name first, else part of the name."""
        if any(each.is_test for each in facts.functions):
            return [facts.path]
        path = PurePosixPath(facts.path)
        stem = path.parent.name if path.stem in _NAMED_BY_FOLDER and path.parent.name else path.stem
        stem = stem.lower().strip("_")
        exact = self._by_subject.get(stem, [])
        return sorted(exact or self._partly(stem))[:_SHOWN]

    def _partly(self, stem: str) -> list[str]:
        """`test_server_patterns.py` for `patterns.py`, `test_client_timeouts.py` for `client.py`."""
        found = []
        for subject, paths in self._by_subject.items():
            if subject.startswith(f"{stem}_") or subject.endswith(f"_{stem}"):
                found += paths
        return found


def _subject(path: str) -> str:
    stem = PurePosixPath(path).stem.lower()
    return _MARK.sub("", stem).strip("_")
