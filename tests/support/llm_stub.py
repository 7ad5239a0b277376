"""Models on the loopback interface: answers requests as OpenAI (both APIs) and Anthropic shape them.

    with ModelStub() as stub:
        stub.say({"title": "T"})            # the next answer: a text, or an object where a schema is asked for
        stub.refuse(429, retry_after="7")   # or a refusal
        ...; stub.requests                  # what was asked, in order: (path, headers, body)

Without a script it answers with the text "stub", or with the smallest object that the schema asks for.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

INPUT_TOKENS, OUTPUT_TOKENS = 7, 3


class ModelStub:
    """The server. `url` is where it listens."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self._script: deque[dict[str, Any]] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ModelStub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environ(self) -> dict[str, str]:
        """The variables that lead the providers' clients here."""
        urls = {"OPENAI_BASE_URL": f"{self.url}/v1", "ANTHROPIC_BASE_URL": self.url}
        return {**urls, "OPENAI_API_KEY": "sk-stub", "ANTHROPIC_API_KEY": "sk-ant-stub"}

    def say(self, answer: Any) -> None:
        """The next answer."""
        self._script.append({"answer": answer})

    def refuse(self, status: int, *, retry_after: str | None = None, message: str = "refused") -> None:
        """The next answer is an error."""
        self._script.append({"status": status, "retry_after": retry_after, "message": message})

    def stall(self, seconds: float) -> None:
        """The next answer comes late."""
        self._script.append({"answer": "late", "seconds": seconds})

    def next(self) -> dict[str, Any]:
        return self._script.popleft() if self._script else {}


def _handler(stub: ModelStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            said = stub.next()
            time.sleep(said.get("seconds", 0))
            if "status" in said:
                headers = {"retry-after": said["retry_after"]} if said["retry_after"] else {}
                error = {"type": "error", "error": {"type": "stub_error", "message": said["message"]}}
                self._answer(said["status"], error, headers)
            elif body.get("stream"):
                self._send(200, _stream(_messages(body, said)), {"content-type": "text/event-stream"})
            else:
                self._answer(200, _completion(self.path, body, said), {})

        def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
            self._send(status, json.dumps(body).encode(), {"content-type": "application/json", **headers})

        def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # who asked has gone

    return Handler


def _completion(path: str, body: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    make = next(make for end, make in _SHAPES.items() if path.split("?")[0].endswith(end))
    return make(body, said)


def _tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """The tool by which an object is to be answered: {name, schema}; None where a text is asked for."""
    for tool in body.get("tools") or ():
        inner = tool.get("function", tool)
        return {"name": inner["name"], "schema": inner.get("parameters") or inner.get("input_schema")}
    return None


def _value(said: dict[str, Any], tool: dict[str, Any]) -> Any:
    return said["answer"] if "answer" in said else _smallest(tool["schema"])


def _text(body: dict[str, Any], said: dict[str, Any]) -> str:
    """The answer as text: an object where the request says that the text must be one."""
    asked = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    asked = asked or (body.get("output_config") or {}).get("format") or {}
    schema = asked.get("json_schema", asked).get("schema")
    answer = said.get("answer", "stub" if schema is None else _smallest(schema))
    return answer if isinstance(answer, str) else json.dumps(answer)


def _smallest(schema: dict[str, Any]) -> Any:
    """The smallest value of a plain schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: _smallest(schema["properties"][name]) for name in schema.get("required", ())}
    return {"array": [], "string": "stub", "integer": 1, "number": 0.5, "boolean": True}.get(str(kind))


def _chat(body: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(body, said)}
    reason, tool = "stop", _tool(body)
    if tool is not None:
        function = {"name": tool["name"], "arguments": json.dumps(_value(said, tool))}
        message |= {"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}
        reason = "tool_calls"
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 10}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
    return {**head, "choices": [choice], "usage": usage}


def _responses(body: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    tool = _tool(body)
    if tool is not None:
        call = {"type": "function_call", "id": "f1", "call_id": "c1", "status": "completed"}
        item = {**call, "name": tool["name"], "arguments": json.dumps(_value(said, tool))}
    else:
        part = {"type": "output_text", "text": _text(body, said), "annotations": []}
        item = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    usage: dict[str, Any] = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS, "total_tokens": 10}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    head = {"id": "r", "object": "response", "created_at": 0, "status": "completed", "model": body["model"]}
    rest = {"parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
    return {**head, **rest, "output": [item], "usage": usage}


def _messages(body: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    tool = _tool(body)
    if tool is not None:
        content = {"type": "tool_use", "id": "t1", "name": tool["name"], "input": _value(said, tool)}
    else:
        content = {"type": "text", "text": _text(body, said)}
    head = {"id": "m", "type": "message", "role": "assistant", "model": body["model"], "stop_sequence": None}
    reason = "end_turn" if tool is None else "tool_use"
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    return {**head, "content": [content], "stop_reason": reason, "usage": usage}


def _stream(message: dict[str, Any]) -> bytes:
    """The same as Anthropic's stream of events, which its client asks for where answers may be long."""
    (block,) = message["content"]
    if block["type"] == "tool_use":
        empty = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    else:
        empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": OUTPUT_TOKENS}},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events).encode()


_SHAPES = {"/chat/completions": _chat, "/responses": _responses, "/messages": _messages}
