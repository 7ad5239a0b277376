"""An MCP server without an SDK, for what no SDK does: each tool misbehaves in one way. Protocol 2025-06-18.

raw.py [die|silent|garbage|slow|once FILE|env FILE]   misbehaves at its start
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

OBJECT = {"type": "object"}
LYING = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
lock = threading.Lock()
cancelled: list[Any] = []


def send(message: dict[str, Any]) -> None:
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def answer(number: int, value: str) -> None:
    send({"id": number, "result": {"content": [{"type": "text", "text": value}]}})


def notify(method: str, **params: Any) -> None:
    send({"method": f"notifications/{method}", "params": params})


def call(number: int, name: str, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    tool = TOOLS.get(name)
    if tool is None:
        send({"id": number, "error": {"code": -32602, "message": f"Unknown tool: {name}"}})
    else:
        tool(number, arguments, meta)


def echo(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    answer(number, str(arguments.get("text")))


def pid(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    answer(number, str(os.getpid()))


def never(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    pass


def late(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    threading.Timer(arguments["after"], answer, (number, "late")).start()


def die(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    print("something broke inside", file=sys.stderr, flush=True)
    os._exit(7)


def die_once(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    """Dies the first time, answers the next."""
    if not os.path.exists(arguments["flag"]):
        open(arguments["flag"], "w").close()
        os._exit(7)
    answer(number, "the second time")


def die_later(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    answer(number, "still here")
    os._exit(3)


def orphan(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    """Exits, and leaves a child that holds its output."""
    if os.fork():
        os._exit(4)
    time.sleep(3600)


def deaf(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    """Closes its input, and goes on."""
    os.close(0)
    time.sleep(3600)


def stuck(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    """Reads no more."""
    answer(number, "stuck now")
    time.sleep(3600)


def garbage(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    with lock:
        os.write(1, b'what is this?\n\xff\xfe\x00\n{"jsonrpc": "2.0"\n[1, 2]\n\n' * 100)
    answer(number, "after the garbage")


def huge(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    """`bytes` of text in one line, its id `first` or at the end, or nowhere."""
    text = b"x" * (1024 * 1024)
    head = b'{"jsonrpc":"2.0","id":%d,"result":' % number if arguments["id"] == "first" else b'{"result":'
    tail = b',"jsonrpc":"2.0","id":%d}\n' % number if arguments["id"] == "last" else b"}\n"
    with lock:
        out = sys.stdout.buffer
        out.write(head + b'{"content":[{"type":"text","text":"')
        for _ in range(arguments["bytes"] // len(text)):
            out.write(text)
        out.write(b'"}]}' + tail)
        out.flush()


def other_id(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    answer(number + 1000, "not for you")


def lying(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    send({"id": number, "result": {"content": [], "structuredContent": {"count": "many"}}})


def malformed(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    send({"id": number, "result": {"content": "no list", "structuredContent": 5}})


def backwards(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    token = meta["progressToken"]
    for value in (1, 5, 3, 5, float("nan"), 4, 10):
        notify("progress", progressToken=token, progress=value, total=10, message=f"at {value}")
        time.sleep(0.06)
    answer(number, "done")


def flood(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    for n in range(arguments["messages"]):
        notify("message", level="info", data=f"line {n}")
        notify("progress", progressToken=meta["progressToken"], progress=n)
    answer(number, "done")


def noisy(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    sys.stderr.write(("e" * 1000 + "\n") * (arguments["bytes"] // 1001))
    sys.stderr.write("z" * 100_000 + "\n")
    sys.stderr.flush()
    answer(number, "done")


def code(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    send({"id": number, "error": {"code": arguments["code"], "message": arguments.get("message", "no")}})


def was_cancelled(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    answer(number, json.dumps(cancelled))


def several(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    blocks = [
        {"type": "text", "text": "a picture"},
        {"type": "image", "data": "iVBORw==", "mimeType": "image/png"},
        {"type": "resource_link", "uri": "file:///a.txt", "name": "a"},
        {"type": "resource", "resource": {"uri": "file:///b", "blob": "AAE="}},
        {"type": "resource", "resource": {"uri": "file:///c", "text": "c"}},
    ]
    send({"id": number, "result": {"content": blocks}})


def result(number: int, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    send({"id": number, "result": arguments["result"]})


TOOLS = {
    tool.__name__: tool
    for tool in (
        backwards, code, deaf, die, die_later, die_once, echo, flood, garbage, huge, late, lying, malformed, never,
        noisy, orphan, other_id, pid, result, several, stuck, was_cancelled,
    )
}  # fmt: skip


def listing() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "inputSchema": {**OBJECT, "properties": {"text": {}, "count": {}}, "required": ["text"]},
            **({"outputSchema": LYING} if name == "lying" else {}),
        }
        for name in TOOLS
    ]


def handle(message: dict[str, Any]) -> None:
    number: Any = message.get("id")
    method, params = message.get("method"), message.get("params") or {}
    if method == "initialize":
        send(
            {
                "id": number,
                "result": {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}, "logging": {}},
                    "serverInfo": {"name": "raw", "version": "1"},
                },
            }
        )
    elif method == "tools/list":
        send({"id": number, "result": {"tools": listing()}})
    elif method == "tools/call":
        call(number, params["name"], params.get("arguments") or {}, params.get("_meta") or {})
    elif method == "notifications/cancelled":
        cancelled.append(params.get("requestId"))
    elif number is not None:
        send({"id": number, "error": {"code": -32601, "message": "Method not found"}})


def start(mode: str = "", path: str = "") -> None:
    if mode == "die":
        sys.exit("cannot start: no licence")
    if mode == "silent":
        time.sleep(3600)
    if mode == "garbage":
        print("Welcome to this server!", flush=True)
        time.sleep(3600)
    if mode == "slow":
        time.sleep(0.5)
    if mode == "once" and not os.path.exists(path):  # starts the second time only
        open(path, "w").close()
        sys.exit("not this time")
    if mode == "env":
        with open(path, "w") as file:
            json.dump({"env": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv[1:]}, file)


start(*sys.argv[1:3])
for line in sys.stdin:
    handle(json.loads(line))
