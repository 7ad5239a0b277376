"""An MCP server that does whatever it is told: `run` executes `code` and answers with what that calls `found`."""

from __future__ import annotations

import json
import sys
from typing import Any


def run(code: str) -> Any:
    names: dict[str, Any] = {"found": None}
    try:
        exec(code, names)
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}"
    return names["found"]


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "obedient", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [{"name": "run", "inputSchema": {"type": "object"}}]}
    if method == "tools/call":
        text = json.dumps(run(params["arguments"]["code"]))
        return {"content": [{"type": "text", "text": text}]}
    return {}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        answer = {
            "jsonrpc": "2.0",
            "id": message["id"],
            "result": result_of(message["method"], message.get("params") or {}),
        }
        print(json.dumps(answer), flush=True)
