"""An MCP server of this package: says its version, and what is wrong with a call's arguments in a line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from inspect import cleandoc
from typing import Any, NamedTuple

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.types import INVALID_PARAMS, CallToolResult, GetPromptResult, InputRequiredResult
from pydantic import ValidationError

__all__ = ["SageServer", "WrongArgument", "package_version"]

_SHOWN_CHARS = 60


class WrongArgument(NamedTuple):
    """place: the argument, such as `options.timeout`. reason: what is wrong and what is allowed."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class SageServer(MCPServer[Any]):
    """`name` and the settings of MCPServer. The SDK checks arguments before a tool is called, and answers with a
    dump of pydantic's; `refused` answers in its place.

    takes_more: calls may have arguments that a tool does not know, as the SDK has it; else they are refused before
    anything is done.
    """

    takes_more = True

    def __init__(self, name: str, **settings: Any) -> None:
        settings.setdefault("log_level", "WARNING")  # else each refused call is a box of lines on stderr
        super().__init__(name, version=package_version(), **settings)

    def add_tool(
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        *rest: Any,
        **more: Any,
    ) -> None:
        """As MCPServer's. The description is without the indentation of its docstring, which a model would read."""
        text = cleandoc(description or fn.__doc__ or "")
        super().add_tool(fn, name, title, text, *rest, **more)

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """As MCPServer's. A blank text where one is needed is a wrong argument, too."""
        if not self.takes_more or any(
            isinstance(value, str) and not value.strip() for value in arguments.values()
        ):
            schema = await self._schema(name)
            unknown = [] if self.takes_more or not schema else [*_unknown(arguments, schema)]
            if wrong := [
                *(_missing(arguments, schema) if unknown else ()),
                *_blank(arguments, schema),
                *unknown,
            ]:
                return self.refused(name, arguments, wrong)
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            known = [tool.name for tool in await self.list_tools()]
            if name not in known:
                near = get_close_matches(name[:200], known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
                raise ToolError(f"there is no tool {name[:200]!r}; {hint}") from error
            cause = error.__cause__
            if isinstance(error, UnexpectedToolError) or not isinstance(cause, ValidationError):
                raise
            wrong = [*_wrong(cause, arguments), *_unknown(arguments, await self._schema(name))]
            return self.refused(name, arguments, wrong)

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Any = None
    ) -> GetPromptResult | InputRequiredResult:
        """As MCPServer's, but what the client got wrong is its error, not an internal one with a traceback.

        Raises:
            MCPError: there is no such prompt, or its arguments are others; the code says invalid parameters.
        """
        known = {prompt.name: prompt for prompt in await self.list_prompts()}
        prompt = known.get(name)
        if prompt is None:
            raise MCPError(
                INVALID_PARAMS, f"there is no prompt {name[:200]!r}; there are {', '.join(known) or 'none'}"
            )
        needed = [each.name for each in prompt.arguments or () if each.required]
        missing = [each for each in needed if not str((arguments or {}).get(each, "")).strip()]
        if missing:
            raise MCPError(
                INVALID_PARAMS,
                f"the prompt {name!r} needs {', '.join(missing)}: say in a few words what it is",
            )
        known_arguments = [each.name for each in prompt.arguments or ()]
        if more := [each[:200] for each in arguments or {} if each not in known_arguments]:
            raise MCPError(
                INVALID_PARAMS,
                f"the prompt {name!r} has no argument {more[0]!r}; there are {', '.join(known_arguments) or 'none'}",
            )
        return await super().get_prompt(name, arguments, context)

    def refused(
        self, name: str, arguments: Mapping[str, Any], wrong: Sequence[WrongArgument]
    ) -> CallToolResult:
        """The answer to a call that the tool `name` does not take.

        Raises:
            ToolError: says what is wrong; becomes the answer.
        """
        raise ToolError("\n".join([f"wrong arguments for {name}:", *(f"  - {each}" for each in wrong)]))

    async def _schema(self, name: str) -> Mapping[str, Any]:
        schemas = (tool.input_schema for tool in await self.list_tools() if tool.name == name)
        return next(schemas, {})


def package_version() -> str:
    """This package's version; "0" from a bare clone."""
    try:
        return version("sage-actors")
    except PackageNotFoundError:
        return "0"


def _missing(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[WrongArgument]:
    for name in schema.get("required") or ():
        if name not in arguments:
            yield WrongArgument(name, "is missing")


def _blank(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[WrongArgument]:
    for name, said in (schema.get("properties") or {}).items():
        value = arguments.get(name)
        if said.get("minLength") and isinstance(value, str) and not value.strip():
            yield WrongArgument(name, "is blank: say in a few words what it is")


def _wrong(error: ValidationError, arguments: Mapping[str, Any]) -> Iterator[WrongArgument]:
    """One for each argument, or part of one; the choices of a union are one."""
    reasons: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for each in error.errors(include_url=False, include_context=False):
        first, *rest = map(str, each["loc"])
        is_whole = arguments.get(first) is each["input"]
        place = first if is_whole else ".".join((first, *rest))
        if each["type"] == "missing":
            yield WrongArgument(place, "is missing")
            continue
        if each["type"] == "extra_forbidden":
            yield WrongArgument(place, "there is no such field")
            continue
        text = each["msg"].replace("Input should be", "must be").replace("should", "must")
        reasons.setdefault(place, []).append(f"{text[:1].lower()}{text[1:]}")
        shown[place] = _cut(repr(each["input"]))
    for place, texts in reasons.items():
        yield WrongArgument(place, f"{' or '.join(texts)}, not {shown[place]}")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _unknown(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[WrongArgument]:
    """What a mistaken name was, where something is wrong: by itself the SDK passes it over."""
    known = list(schema.get("properties") or ())
    for name in arguments:
        if name not in known:
            near = get_close_matches(name[:200], known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
            yield WrongArgument(name[:200], f"there is no such argument; {hint}")
