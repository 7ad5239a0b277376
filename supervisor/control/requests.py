"""What may be asked over the control socket: requests as data, and how they are carried out on a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sage_actors.messages.errors import SageError, UsageError
from sage_actors.messages.events import Event

__all__ = ["ControlledRun", "Request", "carry_out", "failure", "read_request"]

_log = logging.getLogger(__name__)


class ControlledRun(Protocol):
    """What is needed of a run: a `Run`, or one with its methods."""

    @property
    def run_id(self) -> str: ...

    def status(self) -> Any: ...
    def events(self) -> Iterator[Event]: ...
    def cancel(self) -> object: ...
    def approve(self, node_id: str, *, approved: bool = True, data: Any = None, by: str = "") -> object: ...
    def resolve(
        self, node_id: str, how: Literal["retry", "result", "fail"], *, result: Any = None, by: str = ""
    ) -> object: ...


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Look(_Request):
    action: Literal["status", "events"]


class _Cancel(_Request):
    action: Literal["cancel"]
    by: str = ""


class _Stop(_Request):
    action: Literal["stop"]
    grace_s: float = Field(default=5.0, ge=0, le=3600)


class _Approve(_Request):
    action: Literal["approve", "reject"]
    node: str
    data: Any = None
    by: str = ""


class _Resolve(_Request):
    action: Literal["resolve"]
    node: str
    how: Literal["retry", "result", "fail"]
    result: Any = None
    by: str = ""


Request: TypeAlias = _Look | _Cancel | _Stop | _Approve | _Resolve
_ANY: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="action")])


def read_request(line: bytes) -> Request:
    """The request that a line of JSON holds.

    Raises:
        ValueError: it holds none; the message says where and why.
    """
    try:
        return _ANY.validate_json(line)
    except ValidationError as cause:
        first = cause.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"malformed request: {place}: {first['msg']}" if place else first["msg"]) from cause


def carry_out(
    request: Request, run: ControlledRun, *, stop: Callable[[float], object] | None
) -> dict[str, Any]:
    """Do what is asked of the run, and return the answer. Waits until it is on disk; an error is an answer, too.

    stop: ends all runs of this process, given the seconds that running nodes get; None if it cannot be asked to.
    """
    try:
        return {"ok": True} | _act(request, run, stop)
    except SageError as error:
        return failure(error.code, str(error))
    except Exception as error:  # noqa: BLE001 - the border to another process
        _log.exception("control request %s failed", request.action)
        return failure("INTERNAL_ERROR", f"{type(error).__name__}: {error}")


def _act(request: Request, run: ControlledRun, stop: Callable[[float], object] | None) -> dict[str, Any]:
    match request:
        case _Look():
            return {"status": _status_map(run.status())}
        case _Cancel():
            run.cancel()
        case _Approve():
            approved = request.action == "approve"
            run.approve(request.node, approved=approved, data=request.data, by=request.by)
        case _Resolve():
            run.resolve(request.node, request.how, result=request.result, by=request.by)
        case _Stop():
            if stop is None:
                raise UsageError("this process cannot be stopped through its control socket")
            stop(request.grace_s)
    return {}


def failure(code: str, message: str) -> dict[str, Any]:
    """The answer to what could not be done."""
    return {"ok": False, "error": {"code": code, "message": message}}


def _status_map(status: Any) -> dict[str, Any]:
    return asdict(status) if is_dataclass(status) and not isinstance(status, type) else dict(status)  # pyright: ignore[reportArgumentType, reportCallIssue, reportReturnType]
