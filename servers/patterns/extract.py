"""Extracts the patterns of a repository: scan, summary by language, layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sage_actors.servers.patterns.facts import FileFacts
from sage_actors.servers.patterns.model import Pattern, PatternSet, SkippedFile
from sage_actors.servers.patterns.project import project_manifests, project_patterns
from sage_actors.servers.patterns.scan import Scan, Sources
from sage_actors.servers.patterns.summary import GROUPS, language_patterns

__all__ = ["extract"]


def extract(
    sources: Sources, root: Path, *, sample_percentage: float, max_files: int, max_bytes: int | None = None
) -> PatternSet:
    """The patterns of the sources below `root`, which is the project or a folder in it."""
    scan = sources.scan(root, sample_percentage=sample_percentage, max_files=max_files, max_bytes=max_bytes)
    relative = root.relative_to(sources.project).as_posix()
    below = "" if relative == "." else f"{relative}/"
    read_share = len(scan.files) / scan.found if scan.found else 0.0
    manifests = project_manifests(scan.repository, below)
    patterns: list[Pattern] = []
    languages: dict[str, int] = {}
    for group, members in GROUPS.items():
        files = [each for each in scan.files if each.language in members]
        if files:
            languages[group] = len(files)
            patterns += language_patterns(group, files, manifests, read_share=read_share)
    patterns += project_patterns(scan.repository, below, scan.files, read_share=read_share)
    return PatternSet(
        repo_name=root.name or "project",
        root=relative,
        state=scan.state,
        files_found=scan.found,
        files_sampled=scan.sampled,
        files_analyzed=len(scan.files),
        source_bytes=scan.size_bytes,
        primary_language=_primary(scan),
        overall_confidence=_mean([each.confidence for each in patterns]),
        languages=languages,
        patterns=patterns,
        skipped=[SkippedFile(path=each.path, reason=each.reason) for each in scan.skipped],
    )


def _primary(scan: Scan) -> str | None:
    """The language of most lines that are no test; of most lines where all are tests."""
    code: Sequence[FileFacts] = [each for each in scan.files if not each.is_test] or scan.files
    lines: dict[str, int] = {}
    for file in code:
        lines[file.language] = lines.get(file.language, 0) + file.line_count
    return max(sorted(lines), key=lambda name: lines[name], default=None)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3) if values else 0.0
