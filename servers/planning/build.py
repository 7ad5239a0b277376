"""The tasks of a feature: the tests first, then what the work rests on, then its places file by file, then its face.

    pin down what untested places do --.
    a test that fails -----------------+-> errors, settings -> each file, imported ones first -> export -> users' tests

A task is there only where the project shows what it would touch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath

from sage_actors.servers.planning.plan import Plan, place_of, run_of, test_file_of
from sage_actors.servers.specification.places import Spot, spots
from sage_actors.servers.specification.requirements import error_base
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.survey import Place
from sage_actors.servers.specification.tests import new_test_path, tests_of_file

__all__ = ["build_tasks"]

_PLACES = 4
_UNTESTED = 2
_SETTINGS = frozenset({"Config", "Settings", "Options", "Configuration", "Opts"})
_SHOWN = 3
_OF_THE_SEARCH = ("found by", "its name stands")  # why it is shown, not why it is to be changed


def build_tasks(plan: Plan, settle: list[str]) -> list[str]:
    """Adds the tasks; the ids of the last ones. settle: what must be done before."""
    study = plan.study
    found = spots(study)
    close, hooks = _places(study, found)
    pinned = _pin_down(plan, settle, close)
    test = test_file_of(study, (close or hooks or found)[0]) if found else ""
    failing = plan.add(
        f"Write a failing test for: {study.topic.text}",
        needs=settle,
        files=[test, *_models_of_tests(close or hooks, test)] if test else [],
        why=plan.ids("FR-1") or "what was asked",
        checked_by=f"it fails: {run_of(study, test)}" if run_of(study, test) else "",
    )
    ready = [failing, *pinned, *_groundwork(plan, [failing])]
    done = _implement(plan, ready, close, hooks, test)
    done = _export(plan, done, [*close, *hooks] or found)
    return _keep_callers(plan, done, close or hooks, test)


def _places(study: Study, found: list[Spot]) -> tuple[list[Spot], list[Spot]]:
    """What is near the topic, and the ways to extend the project."""
    close = [spot for spot in found if spot.role == "near the topic"] if study.topic.thing_stems else []
    return close[:_PLACES], [spot for spot in found if spot.role.startswith("a way")][:2]


def _pin_down(plan: Plan, settle: list[str], close: list[Spot]) -> list[str]:
    """Places without a test get one of what they do today: else nobody sees what the change breaks."""
    study = plan.study
    paths = [
        path for path in dict.fromkeys(spot.symbol.path for spot in close) if study.sources.is_product(path)
    ]
    untested = [path for path in paths if not tests_of_file(path, study.sources, study.survey.words)]
    made = []
    for path in untested[:_UNTESTED] if study.test_check else []:
        new = new_test_path(path, study.sources)
        names = ", ".join(spot.symbol.name for spot in close if spot.symbol.path == path)
        made.append(
            plan.add(
                f"Pin down by a test today's behaviour of {names}",
                needs=settle,
                files=[
                    *([new] if new else []),
                    *(place_of(spot) for spot in close if spot.symbol.path == path),
                ],
                why=f"no test was found for {path}",
                checked_by=f"it passes before anything is changed: {run_of(study, new)}",
            )
        )
    return made


def _models_of_tests(places: list[Spot], test: str) -> list[str]:
    """Lines of other tests that show how these places are tested."""
    shown = [f"{found.path}:{found.line}" for spot in places for found in spot.tests if found.path != test]
    return list(dict.fromkeys(shown))[:2]


def _groundwork(plan: Plan, needs: list[str]) -> list[str]:
    """Its errors and its settings, where the project has a place for them."""
    study, made = plan.study, []
    base = error_base(study)
    if base is not None and (why := plan.resting_on("raised as")):
        made.append(
            plan.add(
                f"Define what can go wrong in it as a subclass of {base[0]}, or say that nothing new can",
                needs=needs,
                files=[str(base[1])],
                why=why,
                checked_by=f"every error that it raises is caught by: except {base[0]}"
                if base[1].path.endswith(".py")
                else "",
            )
        )
    if (settings := _settings_in_use(study)) is not None:
        made.append(
            plan.add(
                f"Add what can be set of it to {_name(settings.text)}, with its default",
                needs=needs,
                files=[str(settings)],
                why="the project's settings are there; the default leaves present callers as they are",
                checked_by=run_of(study, ""),
            )
        )
    return made


def _settings_in_use(study: Study) -> Place | None:
    """The settings of the whole project or, if its own files use them, of the thing; not those of another product."""
    words = study.survey.words
    for place in study.settings:
        name = _name(place.text)
        meant = name in _SETTINGS or not words.stems(name).isdisjoint(study.topic.thing_stems)
        users = [path for path in words.files_with(name, "code") if study.sources.is_product(path)]
        if meant and len(users) > 2:
            return place
    return None


def _name(signature: str) -> str:
    found = re.search(r"(?:class|struct|type|interface|enum)\s+(\w+)|^(\w+)", signature)
    return next(filter(None, found.groups()), signature) if found else signature


def _implement(plan: Plan, ready: list[str], close: list[Spot], hooks: list[Spot], test: str) -> list[str]:
    """A task for each file that is near the topic, what others import first; else for the ways to extend."""
    study = plan.study
    by_file: dict[str, list[Spot]] = {}
    for spot in close:
        by_file.setdefault(spot.symbol.path, []).append(spot)
    if not by_file:
        names = " or ".join(spot.symbol.name for spot in hooks)
        title = f"Implement it{f', put in place through {names}' if names else ''}: {study.topic.text}"
        files = [place_of(spot) for spot in hooks]
        return [
            plan.add(title, needs=ready, files=files, why=plan.ids("FR-"), checked_by=run_of(study, test))
        ]
    before = ready
    chosen = ", if the open question on the place decides for it" if len(by_file) > 1 else ""
    for path in _imported_first(study, list(by_file)):
        names = ", ".join(spot.symbol.name for spot in by_file[path])
        models = [each for spot in by_file[path] for each in study.survey.derived_from(spot.symbol)]
        after = f", as {', '.join(each.name for each in models[:_SHOWN])} do" if models else ""
        files = [*map(place_of, by_file[path]), *(f"{each.path}:{each.line}" for each in models[:_SHOWN])]
        beside = (
            f", or through {hooks[0].symbol.name} as the open question on the place decides" if hooks else ""
        )
        before = [
            plan.add(
                f"Implement it in or beside {names}{after}{beside}{chosen}",
                needs=before,
                files=[*files, *(place_of(spot) for spot in hooks[:1])],
                why=_why(plan, by_file[path]),
                checked_by=run_of(study, test),
            )
        ]
    return before


def _why(plan: Plan, places: Sequence[Spot]) -> str:
    named = (reason for spot in places for reason in spot.reasons if not reason.startswith(_OF_THE_SEARCH))
    reasons = dict.fromkeys(named)
    return ", ".join(filter(None, [plan.ids("FR-"), *reasons]))


def _imported_first(study: Study, paths: list[str]) -> list[str]:
    """In the order in which they can be changed without looking back; as they stand where they import each other."""
    sorter = TopologicalSorter(
        {path: [o for o in paths if o != path and _imports(study, path, o)] for path in paths}
    )
    try:
        return list(sorter.static_order())
    except CycleError:
        return paths


def _imports(study: Study, path: str, other: str) -> bool:
    pure = PurePosixPath(other)
    name = pure.parent.name if pure.stem in ("__init__", "index", "mod") else pure.stem
    wanted = re.compile(rf"^\s*(?:from|import|use|export|.*\brequire\().*\b{re.escape(name)}\b")
    return any(wanted.search(line) for line in study.sources.lines(path)[:200])


def _export(plan: Plan, done: list[str], places: list[Spot]) -> list[str]:
    study = plan.study
    exported = [place for spot in places if (place := study.survey.exported_at(spot.symbol)) is not None]
    if not exported:
        return done
    return [
        plan.add(
            "Export what is public of it where the others are exported",
            needs=done,
            files=[str(place) for place in exported[:2]],
            why=f"{exported[0]} exports the present ones",
            checked_by=run_of(study, ""),
        )
    ]


def _keep_callers(plan: Plan, done: list[str], places: list[Spot], test: str) -> list[str]:
    """The other tests that mention the places: who uses them must not notice."""
    study = plan.study
    if study.test_check is None:
        return done
    others = [each for spot in places for each in spot.tests if each.path != test]
    files = dict.fromkeys(f"{each.path}:{each.line}" for each in others)
    if not files:
        return done
    paths = list(dict.fromkeys(place.rpartition(":")[0] for place in list(files)[:_SHOWN]))
    return [
        plan.add(
            "See that the tests of those who use these places pass as before",
            needs=done,
            files=list(files)[:_SHOWN],
            why="they mention what was changed",
            checked_by="; ".join(dict.fromkeys(run_of(study, path) for path in paths)),
        )
    ]
