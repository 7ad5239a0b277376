"""Which sightings make which pattern, and the sentence that says it: one table.

    share   how many of all do it: the values are yes and no
    most    the value that most of them have
    list    the most frequent values

A sentence is completed with {count}, {total}, {percent}, {value} (most) and {values} (a list).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sage_actors.servers.patterns.model import CATEGORIES, Category

__all__ = ["RULES", "Rule"]

_CATEGORIES: dict[str, Category] = {each: each for each in CATEGORIES}
_CATEGORIES |= {"errors": "errorHandling", "async": "concurrency"}


@dataclass(frozen=True, slots=True)
class Rule:
    """name: of the pattern and of its sightings. essential: how much whoever writes code here needs it, from 0 to 1.

    rare: the sentence for a share below a tenth; none for the usual one; None leaves the pattern out then.
    """

    name: str
    mode: Literal["share", "most", "list"]
    sentence: str
    essential: float = 0.3
    rare: str | None = ""

    @property
    def category(self) -> Category:
        return _CATEGORIES[self.name.partition(".")[0]]


def _share(name: str, sentence: str, essential: float = 0.3, rare: str | None = "") -> Rule:
    return Rule(name, "share", sentence, essential, rare)


def _most(name: str, sentence: str, essential: float = 0.3) -> Rule:
    return Rule(name, "most", sentence, essential)


def _list(name: str, sentence: str, essential: float = 0.3) -> Rule:
    return Rule(name, "list", sentence, essential)


RULES: tuple[Rule, ...] = (
    _most(
        "naming.functions",
        "Functions are named in {value}: {count} of {total} that have more than one word.",
        0.95,
    ),
    _most("naming.classes", "Types are named in {value} ({count} of {total}).", 0.8),
    _most(
        "naming.components",
        "Functions of .tsx and .jsx files that begin with a capital (components) are {value} ({count}).",
    ),
    _most("naming.constants", "Constants at the top of a module are {value} ({count} of {total}).", 0.6),
    _most(
        "naming.files",
        "Source files are named in {value}: {count} of {total} whose name has more than one word.",
        0.85,
    ),
    _share(
        "naming.private",
        "What a module keeps to itself begins with an underscore: {count} of {total} top-level functions do.",
        0.6,
        rare=None,
    ),
    _most("types.functions", "{count} of {total} functions are {value} ({percent}).", 0.9),
    _most("types.optional", "What may be None is written {value} ({count} of {total}).", 0.6),
    _share(
        "types.future",
        "{count} of {total} modules begin with `from __future__ import annotations`.",
        0.5,
        rare=None,
    ),
    _list("types.records", "Data and interfaces are modelled as {values}.", 0.6),
    _share("types.returns", "{count} of {total} functions declare their return type ({percent}).", 0.85),
    _most("types.shapes", "Shapes of objects are declared as {value} ({count} of {total}).", 0.6),
    _list("types.any", "The type `any` is written {total} times."),
    _list("types.non_null", "Non-null assertions (`x!`) occur {total} times."),
    _most("types.receivers", "Methods have a {value} receiver ({count} of {total}).", 0.5),
    _list("types.derives", "Types derive {values}.", 0.5),
    _list("types.unsafe", "There are {total} unsafe blocks."),
    _most("testing.framework", "Tests use {value} ({count} of {total}).", 1.0),
    _most("testing.file_names", "Test files are named {value} ({count} of {total}).", 0.95),
    _most("testing.location", "Test files lie {value} ({count} of {total}).", 0.9),
    _most("testing.placement", "Tests stand in {value} ({count} of {total}).", 0.95),
    _most("testing.package", "Test files belong to {value} ({count} of {total}).", 0.6),
    _most("testing.style", "Tests are written as {value} ({count} of {total}).", 0.85),
    _share("testing.tables", "{count} of {total} tests go through a table of cases.", 0.5, rare=None),
    _most("testing.assertions", "Tests check with {value} ({count} of {total}).", 0.85),
    _list("testing.helpers", "Tests are helped by {values}.", 0.7),
    _list("errors.raised", "Errors raised most: {values}.", 0.9),
    _list("errors.created", "New errors are made with {values}.", 0.85),
    _share(
        "errors.own",
        "{count} of {total} errors raised are of the project's own types ({percent}).",
        0.85,
        rare=None,
    ),
    _list("errors.bases", "The project's own errors derive from {values}.", 0.85),
    _list("errors.classes", "The project's own error types: {values}.", 0.8),
    _most("errors.caught", "An except clause names {value} in {count} of {total} cases.", 0.6),
    _share(
        "errors.chained",
        "{count} of {total} raises inside an except clause chain the cause (`raise … from …`).",
        0.7,
    ),
    _list("errors.handled", "Errors are met with {values}.", 0.85),
    _most(
        "errors.checked", "After `if err != nil` the error is most often {value} ({count} of {total}).", 0.95
    ),
    _list("errors.compared", "Errors are told apart with {values}.", 0.6),
    _list("errors.panics", "Outside tests there are {values}.", 0.5),
    _share(
        "errors.returns",
        "{count} of {total} functions that have a result can return an error ({percent}).",
        0.85,
    ),
    _most(
        "errors.propagated",
        "Outside tests a call that can fail most often ends in `{value}` ({count} of {total}).",
        0.95,
    ),
    _list("logging.calls", "Output and logging go through {values}.", 0.7),
    _most("logging.logger", "Loggers are got by {value} ({count} of {total}).", 0.5),
    _list("architecture.entry", "Programs begin at {values}.", 0.4),
    _share(
        "documentation.public",
        "{count} of {total} public functions and types are documented ({percent}).",
        0.85,
    ),
    _share(
        "documentation.modules",
        "{count} of {total} modules begin with a docstring ({percent}).",
        0.5,
        rare="Few modules begin with a docstring: {count} of {total}.",
    ),
    _most(
        "documentation.style", "Docstrings that describe parameters have {value} ({count} of {total}).", 0.6
    ),
    _share(
        "async.functions",
        "{count} of {total} functions are async ({percent}).",
        0.6,
    ),
    _list("async.library", "Concurrency comes from {values} (imports).", 0.5),
    _most("async.style", "Promises are consumed with {value} ({count} of {total}).", 0.5),
    _list("async.constructs", "Concurrency is written with {values}.", 0.4),
    _share("async.context", "{count} of {total} functions take a context.Context first.", 0.5, rare=None),
    _most("imports.style", "Imports have the form `{value}` ({count} of {total}).", 0.5),
    _most("imports.own", "The project's own modules are imported by {value} ({count} of {total}).", 0.7),
    _list("imports.internal", "The crate's own items are imported by {values}.", 0.5),
    _most("imports.system", "Modules are loaded as {value} ({count} of {total}).", 0.85),
    _most("imports.exports", "Modules give out {value} ({count} of {total}).", 0.7),
    _list("imports.packages", "Other people's packages in use: {values}.", 0.7),
    _most("style.quotes", "Texts stand in {value} quotes ({count} of {total}).", 0.4),
    _share("style.semicolons", "{count} of {total} statements end in a semicolon ({percent}).", 0.4),
    _most("style.strings", "Values are put into texts by {value} ({count} of {total}).", 0.4),
    _most("style.functions", "A function that is a value is written as {value} ({count} of {total}).", 0.5),
)
