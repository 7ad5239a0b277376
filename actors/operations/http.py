"""Operations of type `http`: one request.

config: method (GET), url, headers, query (or params), body (text) or json, raise_for_status (default true:
4xx and 5xx fail). The result is {status, headers, body}: headers with lower-case names, body parsed where it
is JSON, else text, else bytes. Redirects are followed on the same host and port only: headers may carry keys.
A failure by status can be retried for 408, 425, 429 and 5xx; Retry-After is heeded.

The operation's `egress` is the supervisor's word, not its author's: {proxy: URL} is its only way out, {proxy: None}
says that it has none. Without it (the sandbox is off) requests go as the environment's proxies say.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sage_actors.actors.egress.client import explain_response, explain_tunnel, no_network
from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import MAX_RESULT_BYTES, unpack
from sage_actors.messages.errors import LimitExceeded, OperationError, UsageError
from sage_actors.messages.text_form import text_of

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["HttpRunner", "RequestFailed", "retry_after_s"]

_RETRYABLE = frozenset({408, 425, 429})
_ROOM_BYTES = 64 * 1024  # of a result, for all but the body
_TIMEOUT_S = 300.0  # between two bytes; the whole is bounded by the node's timeout
_BODY_CHARS = 500
_REDIRECTS = 20
_THROUGH_PROXY = 200  # connections; the proxy refuses more than 256 of one operation


class RequestFailed(OperationError):
    """The server answered with an error status. `details`: status, url, start of the body."""

    def __init__(self, status: int, url: str, body: str, *, retry_after: float | None) -> None:
        super().__init__(f"{url} answered {status}" + (f": {body[:_BODY_CHARS]}" if body else ""))
        self.retryable = status in _RETRYABLE or status >= 500  # type: ignore[misc]
        self.retry_after = retry_after
        self.details = {"status": status, "url": url, "body": body[:_BODY_CHARS]}


class HttpRunner:
    """Makes the request with the worker's one client for its way out, so that connections are used again.

    Raises:
        RequestFailed: the host answered with an error.
        SandboxViolation: the egress proxy denies it.
        EgressFailed, BreakerOpenError: the proxy cannot reach the host, or holds the call back.
    """

    is_async = True

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._egress: Mapping[str, Any] | None = spec.get("egress")

    async def run(self, task: Task) -> dict[str, Any]:
        config = unpack(task.packed).get("config", {})
        url = config.get("url")
        if not isinstance(url, str):
            raise UsageError("`url` must be a string")
        _check(url)
        client = self._client(url)
        request = client.build_request(
            str(config.get("method") or "GET").upper(),
            url,
            headers=_texts(config.get("headers")),
            params=config.get("query") or config.get("params"),
            content=_body(config.get("body")),
            json=config.get("json"),
        )
        response = await _send(client, request)
        try:
            content = await _read(response, url)
        finally:
            await response.aclose()
        body = _parse(response, content)
        if response.status_code >= 400 and config.get("raise_for_status", True):
            text = content[: 4 * _BODY_CHARS].decode("utf-8", "replace")
            wait = retry_after_s(response.headers.get("retry-after"), time.time())
            raise RequestFailed(response.status_code, _without_secrets(response.url), text, retry_after=wait)
        return {"status": response.status_code, "headers": dict(response.headers), "body": body}

    def _client(self, url: str) -> httpx.AsyncClient:
        if self._egress is None:
            return _client(None)
        proxy = self._egress.get("proxy")
        if not isinstance(proxy, str):
            import httpx

            raise no_network(httpx.URL(url))
        return _client(proxy)


def _check(url: str) -> None:
    """UsageError for what no attempt can fetch; the text has nothing of the URL, which may hold a key."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as cause:
        raise UsageError(f"`url` is no URL: {cause}") from cause
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError("`url` must begin with http:// or https://, and name a host")


def retry_after_s(value: str | None, now: float) -> float | None:
    """Seconds to wait for a Retry-After header (RFC 9110, 10.2.3: seconds, or an HTTP date); None without.

    >>> retry_after_s("120", 0.0)
    120.0
    >>> retry_after_s("Thu, 01 Jan 1970 00:02:00 GMT", 60.0)
    60.0
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


_clients: WeakKeyDictionary[Any, dict[str | None, httpx.AsyncClient]] = WeakKeyDictionary()


def _client(proxy: str | None) -> httpx.AsyncClient:
    """The client of the running event loop for this proxy; None: whatever the environment says."""
    import asyncio

    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if proxy not in clients:
        clients[proxy] = _new_client(proxy)
    return clients[proxy]


def _new_client(proxy: str | None) -> httpx.AsyncClient:
    from http.cookiejar import DefaultCookiePolicy

    import httpx

    most = 1000 if proxy is None else _THROUGH_PROXY
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=100)
    client = httpx.AsyncClient(
        # pool=None: others may hold the connections for as long as they like
        timeout=httpx.Timeout(_TIMEOUT_S, pool=None),
        limits=limits,
        proxy=proxy,
        trust_env=proxy is None,
        verify=_certificates(),
    )
    # It serves one node after the other: no cookie of one is for the next.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


@cache
def _certificates() -> ssl.SSLContext:
    """Loaded once: it takes longer than a request."""
    import httpx

    return httpx.create_ssl_context()


async def _send(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The response, its body still to be read, behind redirects that stay on the host. Cookies live as long."""
    import httpx

    cookies = httpx.Cookies()
    for _ in range(_REDIRECTS):
        response = await _send_once(client, request)
        following = response.next_request
        if following is None or _origin(following) != _origin(request):
            return response
        await response.aclose()
        cookies.extract_cookies(response)
        cookies.set_cookie_header(following)
        request = following
    raise OperationError(f"{_without_secrets(request.url)}: more than {_REDIRECTS} redirects")


async def _send_once(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    import httpx

    try:
        response = await client.send(request, stream=True, follow_redirects=False)
    except httpx.ProxyError as cause:
        raise explain_tunnel(cause, request.url) or cause from cause
    if (refused := explain_response(response)) is not None:
        await response.aclose()
        raise refused
    return response


def _origin(request: httpx.Request) -> tuple[str, str, int | None]:
    return request.url.scheme, request.url.host, request.url.port


async def _read(response: httpx.Response, url: str) -> bytes:
    """The whole body.

    Raises:
        LimitExceeded: it does not fit into a result.
    """
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_RESULT_BYTES - _ROOM_BYTES:
            error = LimitExceeded(f"{url} answered with more than {MAX_RESULT_BYTES - _ROOM_BYTES} bytes")
            error.retryable = False  # type: ignore[misc]
            raise error
    return bytes(content)


def _parse(response: httpx.Response, content: bytes) -> Any:
    import json

    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (kind == "application/json" or kind.endswith("+json")) and content:
        try:
            return json.loads(content)
        except ValueError:
            pass  # it claims to be JSON and is not: the text is more useful than an error
    try:
        return content.decode(response.charset_encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):
        return content


def _texts(headers: Mapping[str, Any] | None) -> dict[str, str] | None:
    """A header that is null is not sent."""
    given = (headers or {}).items()
    return {name: text_of(f"headers.{name}", value) for name, value in given if value is not None} or None


def _body(body: Any) -> str | bytes | None:
    return body if body is None or isinstance(body, bytes) else text_of("body", body)


def _without_secrets(url: httpx.URL) -> str:
    """Without query and user: both may carry keys, and this goes into logs."""
    return str(url.copy_with(query=None, username=None, password=None, fragment=None))
