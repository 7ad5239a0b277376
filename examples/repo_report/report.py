"""The report: everything that the other steps found, as `report.md` and as a result."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from repo_report.declared import compare
from repo_report.findings import findings
from repo_report.inventory import REPORT_MARK
from repo_report.sections import (
    dependencies_section,
    directories_section,
    history_section,
    hotspots_section,
    imports_section,
    languages_section,
    largest_section,
    limits_section,
    summary,
    todos_section,
)

__all__ = ["write"]

Facts = dict[str, Any]


def write(
    repository: Facts,
    inventory: Facts | None,
    history: Facts | None,
    dependencies: Facts | None,
    hotspots: list[Facts] | None,
    languages: list[Facts | None] | None,
    directories: list[Facts | None] | None,
    output: str = "report.md",
    now: float | None = None,
) -> Facts:
    """Writes the report to `output`, whole or not at all. A part that failed is None, and the report says so.

    Returns:
        The findings and figures of the report; `output` is the absolute path.

    Raises:
        OSError: `output` cannot be written.
    """
    facts = {
        "repository": repository,
        "inventory": inventory,
        "history": history,
        "dependencies": dependencies,
        "hotspots": hotspots,
        "languages": [each for each in languages or [] if each],
        "directories": [each for each in directories or [] if each],
        "failed": _failed(inventory, history, dependencies, hotspots, languages, directories),
        "now": time.time() if now is None else now,
    }
    facts["compared"] = _compared(facts)
    found = findings(facts)
    _replace(Path(output), "\n".join(_document(facts, found)))
    return {"output": os.path.abspath(output), "findings": found, **_figures(facts)}


def _document(facts: Facts, found: list[str]) -> list[str]:
    lines = [REPORT_MARK, *summary(facts), "", "## Worth a look", ""]
    lines += [f"- {each}" for each in found] or ["Nothing stood out."]
    for section in (
        hotspots_section,
        history_section,
        languages_section,
        directories_section,
        largest_section,
        todos_section,
        imports_section,
        dependencies_section,
        limits_section,
    ):
        lines += section(facts)
    text = [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return [*text, ""]


def _failed(*parts: Any) -> list[str]:
    names = ("inventory", "history", "dependencies", "hotspots", "languages", "directories")
    found = []
    for name, part in zip(names, parts, strict=True):
        if part is None:
            found.append(name)
        elif isinstance(part, list) and None in part:
            found.append(f"{name} ({part.count(None)} of {len(part)})")
    return found


def _compared(facts: Facts) -> dict[str, dict[str, list[str]]]:
    """Imports against manifests, by ecosystem. Only whole evidence counts."""
    dependencies = facts["dependencies"] or {}
    manifests = [] if dependencies.get("manifests_left_out") else dependencies.get("manifests", [])
    compared = {}
    for ecosystem, languages in (("Python", {"Python"}), ("npm", {"JavaScript", "TypeScript"})):
        parts = [
            each["imports"] for each in facts["languages"] if each["name"] in languages and each["imports"]
        ]
        if not parts:
            continue
        merged = {
            "third_party": [row for part in parts for row in part["third_party"]],
            "third_party_left_out": sum(part["third_party_left_out"] for part in parts),
        }
        if result := compare(ecosystem, merged, manifests):
            compared[ecosystem] = result
    return compared


def _figures(facts: Facts) -> Facts:
    """What a program that reads the result wants; the lists are the report's, ten rows each."""
    inventory, history = facts["inventory"] or {}, facts["history"] or {}
    return {
        "repository": facts["repository"],
        "totals": {
            key: inventory.get(key) for key in ("files", "bytes", "lines", "code_lines", "test_lines")
        },
        "languages": [
            {key: row[key] for key in ("name", "files", "lines", "source_lines", "test_lines")}
            for row in inventory.get("languages", [])
        ],
        "history": {
            key: history.get(key)
            for key in ("commits", "left_out", "author_count", "recent_authors", "bus_factor", "last")
        },
        "hotspots": (facts["hotspots"] or [])[:10],
        "largest": inventory.get("largest", [])[:10],
        "most_changed": history.get("files", [])[:10],
        "todos": {
            "count": sum(each["todos"]["count"] for each in facts["directories"]),
            "older_than_a_year": sum(each["todos"]["older_than_a_year"] for each in facts["directories"]),
        },
        "never_imported": {
            each["name"]: each["imports"]["never_imported"][:10]
            for each in facts["languages"]
            if each["imports"]
        },
        "dependencies": {
            row["path"]: row["count"] for row in (facts["dependencies"] or {}).get("manifests", [])[:20]
        },
        "compared": facts["compared"],
        "failed": facts["failed"],
    }


def _replace(target: Path, text: str) -> None:
    """A kill at any point leaves the old file or the new one, and at most a `.report-` file beside it."""
    handle, temporary = tempfile.mkstemp(prefix=".report-", dir=target.absolute().parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
