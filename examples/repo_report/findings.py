"""What a maintainer should look at first, as sentences with a place each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from repo_report.markdown import code, number, plain

__all__ = ["DAY_S", "age", "all_todos", "findings"]

DAY_S = 86_400
Facts = dict[str, Any]


def findings(facts: Facts) -> list[str]:
    """The sentences, as Markdown; empty where nothing stands out."""
    steps = (_shallow, _hotspot, _people, _quiet, _todos, _unused, _cycles, _dependencies, _tests, _heavy)
    return [sentence for step in steps for sentence in step(facts)]


def age(days: int | None, *, at_least: bool = False) -> str:
    """Days as people say them."""
    if days is None:
        return "?"
    text = (
        f"{days / 365.25:.1f} years"
        if days > 730
        else f"{days // 30} months"
        if days > 90
        else f"{days} days"
    )
    return f"≥ {text}" if at_least else text


def all_todos(facts: Facts) -> list[Facts]:
    """The oldest TODOs of all directories, oldest first."""
    rows = [row for each in facts["directories"] for row in each["todos"]["oldest"]]
    return sorted(
        rows, key=lambda row: (-(row["days"] if row["days"] is not None else -1), row["path"], row["line"])
    )


def _shallow(facts: Facts) -> Iterator[str]:
    if facts["repository"]["shallow"]:
        yield (
            "**Shallow clone:** most of the history is not here, so ages, churn and people are worth little:"
            " `git fetch --unshallow` first."
        )


def _hotspot(facts: Facts) -> Iterator[str]:
    rows = [row for row in facts["hotspots"] or [] if not row["is_test"]]
    if rows and rows[0]["commits"] >= 3:
        row = rows[0]
        yield (
            f"**Hotspot:** {code(row['path'])} has {number(row['lines'])} lines and changed in"
            f" {number(row['commits'])} commits: the file where a split or more tests pay back first."
        )
    alone = [row for row in rows[:10] if row["main_share"] >= 0.8 and row["commits"] >= 5]
    if alone and (facts["history"] or {}).get("author_count", 0) > 2:
        names = ", ".join(
            f"{code(row['path'])} ({plain(row['main_author'])}, {row['main_share']:.0%})" for row in alone[:3]
        )
        yield (
            f"**Known by one:** {len(alone)} of the top {len(rows[:10])} hotspots were changed mostly by one"
            f" person: {names}."
        )


def _people(facts: Facts) -> Iterator[str]:
    history = facts["history"] or {}
    if history.get("commits", 0) < 20 or not history.get("authors"):
        return
    if history["recent_bus_factor"] == 1 and history["recent_authors"] > 1:
        yield (
            f"**Bus factor 1:** one person made more than half of the last year's commits"
            f" ({history['recent_authors']} people committed in it)."
        )
    gone = [row for row in history["authors"][:3] if history["last"] - row["last"] > 365 * DAY_S]
    for row in gone:
        yield (
            f"**Gone quiet:** {plain(row['name'])} made {row['share']:.0%} of the commits, the last one"
            f" {age((history['last'] - row['last']) // DAY_S)} before the newest."
        )


def _quiet(facts: Facts) -> Iterator[str]:
    last = (facts["history"] or {}).get("last")
    days = int((facts["now"] - last) / DAY_S) if last else 0
    if days > 180:
        yield f"**Quiet:** the newest commit is {age(days)} old."


def _todos(facts: Facts) -> Iterator[str]:
    count = sum(each["todos"]["count"] for each in facts["directories"])
    old = sum(each["todos"]["older_than_a_year"] for each in facts["directories"])
    rows = all_todos(facts)
    if old and rows[0]["days"]:
        row = rows[0]
        place = code(f"{row['path']}:{row['line']}")
        yield (
            f"**Stale notes:** {number(old)} of {number(count)} TODO/FIXME/HACK/XXX are older than a year;"
            f" the oldest, {age(row['days'], at_least=row['at_least'])}, is {place}."
        )


def _unused(facts: Facts) -> Iterator[str]:
    for each in facts["languages"]:
        imports = each["imports"]
        if imports and imports["never_imported_count"]:
            rows = imports["never_imported"]
            names = ", ".join(code(row["path"]) for row in rows[:3])
            more = ", …" if len(rows) > 3 else ""
            yield (
                f"**Perhaps dead:** nothing imports or names {number(imports['never_imported_count'])} of"
                f" {number(imports['judged'])} {each['name']} files: {names}{more}."
            )


def _cycles(facts: Facts) -> Iterator[str]:
    for each in facts["languages"]:
        if each["imports"] and each["imports"]["cycles_count"]:
            cycle = each["imports"]["cycles"][0]
            yield (
                f"**Import cycles:** {each['imports']['cycles_count']} in {each['name']}; the largest joins"
                f" {cycle['files']} files, such as {' → '.join(code(path) for path in cycle['loop'][:4])}."
            )


def _dependencies(facts: Facts) -> Iterator[str]:
    for ecosystem, result in facts["compared"].items():
        for key, words in (
            ("undeclared", "imported by code that is no test, but in no manifest"),
            (
                "unimported",
                "required by a manifest, but imported nowhere (plugins and tools may be meant to be)",
            ),
        ):
            if result[key]:
                names = ", ".join(code(name) for name in result[key][:8])
                more = f" and {len(result[key]) - 8} more" if len(result[key]) > 8 else ""
                yield f"**{key.capitalize()} {ecosystem} packages:** {names}{more}: {words}."


def _tests(facts: Facts) -> Iterator[str]:
    inventory = facts["inventory"] or {}
    source, tests = inventory.get("code_lines", 0), inventory.get("test_lines", 0)
    if source > 500 and tests < 0.1 * source:
        what = f"only {number(tests)} lines of tests" if tests else "no tests"
        yield f"**Few tests:** {what} for {number(source)} lines of code."


def _heavy(facts: Facts) -> Iterator[str]:
    heavy = [row for row in (facts["inventory"] or {}).get("heaviest", []) if row["bytes"] > 5 * 1024 * 1024]
    if heavy:
        largest = code(heavy[0]["path"])
        yield f"**Heavy files:** {len(heavy)} over 5 MiB, the largest {largest}; every clone carries them."
