"""The sections of the report, each from the facts to lines of Markdown; without facts, no section."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from repo_report.findings import age, all_todos
from repo_report.markdown import bar, code, number, plain, table

__all__ = [
    "dependencies_section",
    "directories_section",
    "history_section",
    "hotspots_section",
    "imports_section",
    "languages_section",
    "largest_section",
    "limits_section",
    "summary",
    "todos_section",
]

Facts = dict[str, Any]
MAX_TODOS = 25


def summary(facts: Facts) -> list[str]:
    """The title, and what was looked at."""
    repository, inventory, history = facts["repository"], facts["inventory"] or {}, facts["history"] or {}
    lines = [f"# {plain(repository['name'])}", ""]
    if repository["head"] is None:
        return [*lines, "The repository has no commits yet: there is nothing to report on."]
    branch = f" on {code(repository['branch'])}" if repository["branch"] else ""
    lines.append(
        f"Commit {code(repository['head'][:12])}{branch}, {_day(repository['committed_at'])};"
        f" reported {_day(facts['now'])}. Changes that are not committed are not in it."
    )
    source, tests = inventory.get("code_lines", 0), inventory.get("test_lines", 0)
    rows: list[list[object]] = [
        ["files", f"{number(inventory.get('files', 0))} ({_size(inventory.get('bytes', 0))})"],
        ["code", f"{number(source)} lines"],
        [
            "tests",
            f"{number(tests)} lines, {_ratio(tests, source)} per line of code" if tests else "none found",
        ],
        ["commits", _commits(history)],
        ["people", _people(history)],
    ]
    return lines + table(["", ""], rows)


def hotspots_section(facts: Facts) -> list[str]:
    """Large and often changed."""
    if not facts["hotspots"]:
        return []
    text = "Lines times commits, 100 is the highest. Large files that change often cost most."
    rows = [
        [
            row["score"],
            code(row["path"]),
            row["lines"],
            row["commits"],
            row["authors"],
            _main(row),
            _day(row["last"]),
        ]
        for row in facts["hotspots"]
    ]
    return _section(
        "Hotspots", text, table(["score", "file", "lines", "commits", "authors", "mostly", "last"], rows)
    )


def history_section(facts: Facts) -> list[str]:
    """The trend, the people, the most changed files."""
    history = facts["history"] or {}
    if history.get("commits", 0) < 2:
        return []
    most = max((row["commits"] for row in history["months"]), default=0)
    started = time.strftime("%Y-%m", time.gmtime(history["first"] or 0))
    months = [
        [
            row["month"],
            row["commits"],
            row["authors"],
            f"+{number(row['added'])} −{number(row['deleted'])}",
            bar(row["commits"], most),
        ]
        for row in history["months"]
        if row["month"] >= started
    ]
    people = [
        [plain(row["name"]), row["commits"], f"{row['share']:.0%}", _day(row["first"]), _day(row["last"])]
        for row in history["authors"]
    ]
    changed = [
        [code(row["path"]), row["commits"], row["added"], row["deleted"], row["authors"], _day(row["last"])]
        for row in history["files"][:12]
        if row["commits"] > 1
    ]
    lines = _section("Activity", "The twelve months up to the newest commit, merges aside.", [])
    lines += table(["month", "commits", "authors", "lines", ""], months)
    lines += ["### People", *table(["author", "commits", "share", "first", "last"], people)]
    lines += _left_out(history["author_count"] - len(people), "authors")
    if changed:
        lines += ["### Most changed files", *table(["file", "commits", "+", "−", "authors", "last"], changed)]
        lines += _left_out(len(history["files"]) + history["files_left_out"] - len(changed), "files")
    return lines


def languages_section(facts: Facts) -> list[str]:
    """Files and lines."""
    inventory = facts["inventory"] or {}
    if not inventory.get("languages"):
        return []
    detail = {each["name"]: each for each in facts["languages"]}
    rows = [
        [
            plain(row["name"]),
            row["files"],
            row["lines"],
            f"{row['comment'] / max(1, row['lines'] - row['blank']):.0%}" if row["is_code"] else "",
            row["source_lines"] if row["is_code"] else "",
            row["test_lines"] if row["is_code"] else "",
            _ratio(row["test_lines"], row["source_lines"]) if row["is_code"] else "",
            detail.get(row["name"], {}).get("median_lines", ""),
            detail.get(row["name"], {}).get("longest_lines", ""),
        ]
        for row in inventory["languages"]
    ]
    head = ["language", "files", "lines", "comments", "code", "tests", "ratio", "median file", "longest"]
    text = (
        "Code first, then prose and data; no vendored, generated or binary files. Comments are whole lines."
    )
    return _section("Languages", text, table(head, rows)) + _left_out(
        inventory["languages_left_out"], "languages"
    )


def directories_section(facts: Facts) -> list[str]:
    """Where the code is, who knows it, what is noted there."""
    rows = []
    for each in facts["directories"]:
        owner = each["ownership"]
        rows.append(
            [
                code(each["name"]),
                each["files"],
                each["code_lines"],
                each["test_lines"],
                f"{number(owner['commits'])}{'+' if owner.get('capped') else ''}",
                owner["authors"],
                _main(owner) if owner["commits"] else "",
                _day(owner.get("last")),
                each["todos"]["count"],
            ]
        )
    if not rows:
        return []
    head = ["directory", "files", "code", "tests", "commits", "authors", "mostly", "last", "TODOs"]
    return _section(
        "Directories",
        "The directories that hold most; *(rest)* is without those that have a row.",
        table(head, rows),
    )


def largest_section(facts: Facts) -> list[str]:
    """By lines, and by bytes."""
    inventory = facts["inventory"] or {}
    if not inventory.get("largest") and not inventory.get("heaviest"):
        return []
    changed = {row["path"]: row["commits"] for row in (facts["history"] or {}).get("files", [])}
    rows = [
        [code(row["path"]), row["language"], row["lines"], changed.get(row["path"])]
        for row in inventory["largest"]
    ]
    lines = _section(
        "Largest files", "", table(["code", "language", "lines", "commits"], rows) if rows else []
    )
    heavy = [[code(row["path"]), _size(row["bytes"]), row["role"]] for row in inventory["heaviest"]]
    return lines + (["### By bytes", *table(["file", "size", "role"], heavy)] if heavy else [])


def todos_section(facts: Facts) -> list[str]:
    """The oldest first."""
    rows = all_todos(facts)[:MAX_TODOS]
    if not rows:
        return []
    kinds: Counter[str] = Counter()
    for each in facts["directories"]:
        kinds.update(each["todos"]["kinds"])
    text = ", ".join(f"{number(count)} {kind}" for kind, count in kinds.most_common()) + "; the oldest first."
    cells = [
        [
            age(row["days"], at_least=row["at_least"]),
            code(f"{row['path']}:{row['line']}"),
            code(row["text"], 90),
            plain(row["author"] or "?"),
        ]
        for row in rows
    ]
    lines = _section("Notes left in the code", text, table(["age", "place", "note", "author"], cells))
    return lines + _left_out(kinds.total() - len(rows), "notes")


def imports_section(facts: Facts) -> list[str]:
    """Never imported, by tests only, cycles, most imported."""
    lines: list[str] = []
    for each in facts["languages"]:
        imports = each["imports"]
        if imports and (imports["judged"] or imports["most_imported"]):
            lines += [f"### {plain(each['name'])}", "", *_imports(imports)]
    if not lines:
        return []
    text = (
        "A file is listed when no import, no string and no configuration, script or page here names it. Users"
        " of a library may still import it, and computed names cannot be seen: check before deleting."
    )
    return _section("Imports", text, lines)


def _imports(imports: Facts) -> list[str]:
    lines = [
        f"{number(imports['judged'])} files judged; {number(imports['entry_points'])} more are entry points,"
        f" scripts, examples or package files. {number(imports['dynamic_count'])} import by a computed name."
    ]
    for key, title in (("never_imported", "Never imported"), ("only_tests", "Imported by tests only")):
        if imports[key]:
            cells = [[code(row["path"]), row["lines"]] for row in imports[key]]
            lines += [
                "",
                f"**{title}** ({number(imports[key + '_count'])})",
                *table(["file", "lines"], cells),
            ]
            lines += _left_out(imports[key + "_count"] - len(cells), "files")
    if imports["most_imported"]:
        cells = [[code(row["path"]), row["by"]] for row in imports["most_imported"]]
        lines += ["", "**What most depends on**", *table(["file", "imported by"], cells)]
    if imports["cycles"]:
        lines += ["", f"**Cycles** ({imports['cycles_count']}): files that load each other on import", ""]
        lines += [_cycle(cycle) for cycle in imports["cycles"]]
        lines += ["", *_left_out(imports["cycles_count"] - len(imports["cycles"]), "cycles")]
    if imports["dynamic"]:
        lines += ["", f"Computed names in: {', '.join(code(path) for path in imports['dynamic'][:8])}.", ""]
    if imports["unparsed"]:
        paths = ", ".join(code(path) for path in imports["unparsed"][:8])
        lines += ["", f"Could not be parsed ({imports['unparsed_count']}): {paths}.", ""]
    return lines


def dependencies_section(facts: Facts) -> list[str]:
    """By manifest, and what has no constraint."""
    dependencies = facts["dependencies"] or {}
    if not dependencies.get("manifests"):
        return []
    lines, loose = [], defaultdict(list)
    for row in _folded(dependencies["manifests"]):
        groups = Counter(each["group"] for each in row["dependencies"])
        shares = ", ".join(f"{plain(group)} {count}" for group, count in groups.most_common(6))
        lines.append([code(row["path"]), row["ecosystem"], row["count"], shares or plain(row["error"] or "")])
        for each in row["dependencies"]:
            if each["remote"]:
                loose["from an address or a path"].append(each["name"])
            elif not each["constraint"]:
                loose["without any version"].append(each["name"])
    text = table(["manifest", "ecosystem", "declared", "groups"], lines)
    text += _left_out(dependencies["manifests_left_out"], "manifests")
    for what, names in loose.items():
        distinct = sorted(set(names))
        more = f" and {len(distinct) - 20} more" if len(distinct) > 20 else ""
        text += ["", f"Declared {what}: {', '.join(code(name) for name in distinct[:20])}{more}.", ""]
    return _section("Dependencies", "", [*text, *_used(facts)])


def _folded(manifests: list[Facts]) -> list[Facts]:
    """The workflows of GitHub Actions as one row: there are many, and each says little."""
    actions = [row for row in manifests if row["ecosystem"] == "GitHub Actions"]
    if len(actions) < 2:
        return manifests
    every = {each["name"]: each for row in actions for each in row["dependencies"]}
    path = f".github/workflows/ ({len(actions)} files)"
    folded = {**actions[0], "path": path, "count": len(every), "dependencies": list(every.values())}
    return [*(row for row in manifests if row not in actions), folded]


def _used(facts: Facts) -> list[str]:
    lines = []
    for each in facts["languages"]:
        if each["imports"] and each["imports"]["third_party"]:
            rows = each["imports"]["third_party"][:12]
            names = ", ".join(f"{code(row['name'])} ({row['files']})" for row in rows)
            lines += ["", f"Most imported in {plain(each['name'])} (files): {names}."]
    return lines


def limits_section(facts: Facts) -> list[str]:
    """What this report cannot know, and what was left out this time."""
    inventory, history = facts["inventory"] or {}, facts["history"] or {}
    skipped = ", ".join(f"{number(count)} {reason}" for reason, count in inventory.get("skipped", {}).items())
    blind = sum(each["todos"]["without_age"] for each in facts["directories"])
    lines = [
        f"- **Parts that failed:** {', '.join(facts['failed'])}." if facts["failed"] else "",
        "- **Shallow clone:** history ends early; ages, churn and authors are lower bounds."
        if facts["repository"]["shallow"]
        else "",
        f"- {number(history['left_out'])} older commits were not read." if history.get("left_out") else "",
        f"- Not counted as text: {skipped}." if skipped else "",
        f"- {number(blind)} notes have no age: blame was cut short to save time." if blind else "",
        "- Merges are not counted. A renamed file keeps its history where 90 % of it stayed the same.",
        "- Tests, vendored and generated files are told by path and by what the head of a file says.",
        "- Imports are read for Python (by grammar) and JavaScript/TypeScript (by pattern), not for others.",
        "- Commits are counted by author as `.mailmap` says; who reviewed or paired is not in git.",
    ]
    return _section("Limits", "", [line for line in lines if line])


def _section(title: str, text: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *([text, ""] if text else []), *lines]


def _left_out(count: int, what: str) -> list[str]:
    return [f"And {number(count)} more {what}.", ""] if count > 0 else []


def _commits(history: Facts) -> str:
    if not history.get("commits"):
        return "none"
    total = history["commits"] + history["left_out"]
    more = f" (the newest of {number(total)})" if history["left_out"] else ""
    merges = f", and {number(history['merges'])} merges" if history["merges"] else ""
    bots = f", {number(history['bot_commits'])} by bots" if history["bot_commits"] else ""
    span = f", {_day(history['first'])} to {_day(history['last'])}" if history["commits"] > 1 else ""
    return f"{number(history['commits'])}{more}{merges}{bots}{span}"


def _people(history: Facts) -> str:
    if not history.get("commits"):
        return "none"
    if history["author_count"] < 2:
        return number(history["author_count"])
    return (
        f"{number(history['author_count'])}, {number(history['recent_authors'])} of them in the last year of"
        f" work; {history['bus_factor']} made more than half of the commits"
    )


def _cycle(cycle: Facts) -> str:
    way = "the shortest way round" if cycle["files"] > len(cycle["loop"]) - 1 else "the way round"
    return f"- {cycle['files']} files; {way}: {' → '.join(code(path) for path in cycle['loop'])}"


def _main(row: Facts) -> str:
    return f"{plain(row['main_author'], 40)} {row['main_share']:.0%}" if row["main_author"] else ""


def _ratio(tests: int, source: int) -> str:
    return f"{tests / source:.2f}" if source else "no code" if not tests else "only tests"


def _day(at: float | None) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at)) if at else ""


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
