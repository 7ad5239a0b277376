"""The sage servers' tools in one table: it says what they say. `python tests/servers/test_catalog.py` writes it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sage_actors.servers.catalog import SAGE_SERVERS, TOOLS_PATH, create_server, tools_of
from sage_actors.servers.settings import ServerSettings

_KEPT = ("type", "enum", "anyOf", "minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength")


def _said(name: str) -> dict[str, Any]:
    """The tools of a server by itself, in the table's form."""
    tools = asyncio.run(create_server(name, ServerSettings(Path.cwd())).list_tools())
    return {
        tool.name: {
            "properties": {
                argument: {key: schema[key] for key in _KEPT if key in schema}
                for argument, schema in (tool.input_schema.get("properties") or {}).items()
            },
            "required": list(tool.input_schema.get("required") or ()),
        }
        for tool in tools
    }


@pytest.mark.parametrize("name", SAGE_SERVERS)
def test_the_table_says_what_the_server_says(name: str) -> None:
    assert tools_of(name) == _said(name), "write it anew: PYTHONPATH=src python tests/servers/test_catalog.py"


if __name__ == "__main__":
    table = {name: _said(name) for name in SAGE_SERVERS}
    TOOLS_PATH.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
