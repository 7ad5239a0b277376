"""In a worker: what the egress proxy refused, as this package's errors.

the proxy says (see http.py)      becomes             again?
denied: a rule, an address, a token      SandboxViolation    no
waiting: the breaker, a rate limit       BreakerOpenError    yes, after the time it says
failed: no such name, no connection      EgressFailed        yes

It says so in the reason phrase, because HTTP clients show nothing else of a refused CONNECT.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from sage_actors.messages.errors import BreakerOpenError, OperationError, SandboxViolation

__all__ = ["EgressFailed", "explain_chain", "explain_response", "explain_tunnel", "no_network"]

_PHRASE = re.compile(r"(?P<status>\d{3}) egress (?P<kind>denied|waiting|failed): (?P<why>.*)", re.DOTALL)
_SECONDS = re.compile(r"in (\d+) s\b")
_MARK = "x-sage-egress"
_CHAIN = 10


class EgressFailed(OperationError):
    """The egress proxy could not reach the host: it has no address, or nobody answers there."""

    code = "EGRESS_FAILED"


class _Response(Protocol):
    """A response of httpx or httpx2."""

    @property
    def status_code(self) -> int: ...
    @property
    def reason_phrase(self) -> str: ...
    @property
    def headers(self) -> Any: ...
    @property
    def url(self) -> Any: ...


def explain_tunnel(error: BaseException, url: Any) -> OperationError | None:
    """A `ProxyError` of httpx or httpx2 for a request to `url` as ours; None if our proxy did not say it."""
    match = _PHRASE.match(str(error))
    return None if match is None else _explain(match["kind"], match["why"], _target(url))


def explain_response(response: _Response) -> OperationError | None:
    """A response that came through the proxy as our error; None if it is the host's own.

    Within TLS it can only be the host's; of a plain one the proxy takes a header of this name off.
    """
    kind = response.headers.get(_MARK)
    if kind is None or response.url.scheme != "http":
        return None
    match = _PHRASE.match(f"{response.status_code} {response.reason_phrase}")
    return _explain(kind, match["why"] if match else response.reason_phrase, _target(response.url))


def explain_chain(error: BaseException | None) -> OperationError | None:
    """The same, for what a library raises that wraps the errors of its HTTP client."""
    for _ in range(_CHAIN):
        if error is None:
            return None
        response = getattr(error, "response", None)
        if type(error).__name__ == "ProxyError":  # of httpx or httpx2, whichever the library uses
            return explain_tunnel(error, error.request.url)  # type: ignore[attr-defined]
        if response is not None and (found := explain_response(response)) is not None:
            return found
        error = error.__cause__ or error.__context__
    return None


def no_network(url: Any) -> SandboxViolation:
    """The error of an operation that has no way out at all, in place of its request to `url`."""
    why = "operations have no network in this tier of the sandbox; `sage-actors doctor` says what is missing"
    return SandboxViolation("network", _target(url), why)


def _explain(kind: str, why: str, target: str) -> OperationError:
    why = why.removeprefix(f"{target}: ")
    if kind == "denied":
        return SandboxViolation("network", target, why)
    if kind == "failed":
        host = target.rpartition(":")[0]
        return EgressFailed(why if why.startswith(host) else f"{target} cannot be reached: {why}")
    error = BreakerOpenError(f"{target} cannot be called now: {why}")
    seconds = _SECONDS.search(why)
    error.retry_after = float(seconds[1]) if seconds else 1.0  # type: ignore[attr-defined]
    return error


def _target(url: Any) -> str:
    port = url.port or (443 if url.scheme == "https" else 80)
    host = url.raw_host.decode("ascii")
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
