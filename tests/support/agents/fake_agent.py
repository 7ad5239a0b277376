"""A stand-in for the coding agents: speaks the output format of the one whose name it was started by.

$FAKE_AGENT is a JSON object that says how it behaves:

    answer      the text of its answer ("done")      value       an object, as the answer to a schema
    edits       {path: text} to write                 remove      paths to delete
    commit      a message: commits what it wrote      fail        fails with these words, as that agent does
    exit        the exit code (0)                     junk        lines among the events
    flood       bytes to print first                  hang        true: never ends, nor do its children
    record      a file to write what it was asked into, as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

USAGE = (1200, 34)
COST = 0.25


def main() -> int:
    said = json.loads(os.environ.get("FAKE_AGENT", "{}"))
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    prompt = _prompt(arguments)
    if said.get("record"):
        _record(said["record"], prompt, arguments)
    if said.get("hang"):
        _hang(said)
    for path, text in said.get("edits", {}).items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    for path in said.get("remove", []):
        Path(path).unlink()
    if said.get("commit"):
        _commit(said["commit"])
    for _ in range(said.get("flood", 0) // 2**20):
        sys.stdout.write("x" * (2**20 - 1) + "\n")
    for line in said.get("junk", []):
        print(line)
    FORMATS.get(name, _plain)(said, arguments)
    sys.stdout.flush()
    return int(said.get("exit", 0))


def _prompt(arguments: list[str]) -> str:
    if "--message-file" in arguments:
        return Path(arguments[arguments.index("--message-file") + 1]).read_text()
    return sys.stdin.read()


def _record(path: str, prompt: str, arguments: list[str]) -> None:
    seen: dict[str, Any] = {"prompt": prompt, "arguments": arguments, "cwd": os.getcwd()}
    seen["environ"] = sorted(os.environ)
    if "--output-schema" in arguments:
        seen["schema"] = json.loads(Path(arguments[arguments.index("--output-schema") + 1]).read_text())
    Path(path).write_text(json.dumps(seen))


def _hang(said: dict[str, Any]) -> None:
    """Ignores a polite end, and has a child that does, too."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    Path(said["hang"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def _commit(message: str) -> None:
    identity = ("-c", "user.name=Agent", "-c", "user.email=agent@example.com")
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", message], check=True)


def _emit(*events: dict[str, Any]) -> None:
    for event in events:
        print(json.dumps(event))


def _text(said: dict[str, Any]) -> str:
    if "value" in said:
        return f"Here it is.\n\n```json\n{json.dumps(said['value'], indent=1)}\n```\nThat is all."
    return str(said.get("answer", "done"))


def _claude(said: dict[str, Any], arguments: list[str]) -> None:
    result: dict[str, Any] = {"type": "result", "subtype": "success", "is_error": False, "duration_ms": 2006}
    result |= {"num_turns": 1, "session_id": "8f1c", "total_cost_usd": COST, "permission_denials": []}
    usage = {"input_tokens": 200, "cache_creation_input_tokens": 600, "cache_read_input_tokens": 400}
    result["usage"] = {**usage, "output_tokens": USAGE[1]}
    if said.get("fail") == "error_max_turns":
        result |= {"subtype": "error_max_turns", "is_error": True}
    elif said.get("fail"):
        result |= {"is_error": True, "result": said["fail"]}
    elif "--json-schema" in arguments and "value" in said:
        result |= {"result": "", "structured_output": said["value"]}
    else:
        result["result"] = _text(said)
    _emit(result)


def _codex(said: dict[str, Any], arguments: list[str]) -> None:
    _emit({"type": "thread.started", "thread_id": "th_1"}, {"type": "turn.started"})
    _emit({"type": "error", "message": "Reconnecting... 1/5"})
    item = {"id": "item_0", "type": "reasoning", "text": "thinking"}
    _emit({"type": "item.completed", "item": item}, {"type": "turn.heartbeat", "beat": 1})
    if said.get("fail"):
        _emit({"type": "turn.failed", "error": {"message": said["fail"]}})
        return
    text = json.dumps(said["value"]) if "--output-schema" in arguments and "value" in said else _text(said)
    _emit({"type": "item.completed", "item": {"id": "item_1", "type": "agent_message", "text": text}})
    usage = {"input_tokens": USAGE[0], "cached_input_tokens": 400, "output_tokens": USAGE[1]}
    _emit({"type": "turn.completed", "usage": usage})


def _gemini(said: dict[str, Any], arguments: list[str]) -> None:
    if said.get("fail"):
        error = {"error": {"type": "ApiError", "message": said["fail"], "code": 1}}
        print(f"Loaded cached credentials.\n{json.dumps(error, indent=2)}", file=sys.stderr)
        said.setdefault("exit", 1)
        return
    models = {
        "gemini-pro": {"api": {}, "tokens": {"prompt": 1000, "candidates": 20, "total": 1024, "thoughts": 4}},
        "gemini-flash": {"tokens": {"prompt": 200, "candidates": 10, "total": 210}},
    }
    print(json.dumps({"session_id": "g1", "response": _text(said), "stats": {"models": models}}, indent=2))


def _opencode(said: dict[str, Any], arguments: list[str]) -> None:
    common = {"timestamp": 1758919896305, "sessionID": "ses_1"}
    _emit({"type": "step_start", **common, "part": {"type": "step-start"}})
    if said.get("fail"):
        _emit({"type": "error", **common, "error": {"name": "APIError", "data": {"message": said["fail"]}}})
        return
    for share in (0.1, 0.15):
        tokens = {"input": 500, "output": 12, "reasoning": 5, "cache": {"write": 0, "read": 100}}
        _emit({"type": "step_finish", **common, "part": {"tokens": tokens, "cost": share}})
    _emit({"type": "text", **common, "part": {"type": "text", "text": _text(said), "time": {"end": 1}}})


def _aider(said: dict[str, Any], arguments: list[str]) -> None:
    print("Aider v0.86.1\nModel: sonnet with diff edit format\nGit repo: .git with 2 files\n")
    Path(".aider.tags.cache.v4").mkdir(exist_ok=True)
    Path(".aider.tags.cache.v4/cache.db").write_text("cache")
    if said.get("fail"):
        print(f"litellm.AuthenticationError: {said['fail']}")
        return
    print(_text(said))
    print(f"\nTokens: 1.2k sent, 300 cache hit, {USAGE[1]} received. Cost: $0.25 message, $0.25 session.")


def _plain(said: dict[str, Any], arguments: list[str]) -> None:
    if said.get("fail"):
        print(said["fail"], file=sys.stderr)
        said.setdefault("exit", 1)
        return
    print(_text(said))


FORMATS = {"claude": _claude, "codex": _codex, "gemini": _gemini, "opencode": _opencode, "aider": _aider}

if __name__ == "__main__":
    sys.exit(main())
