"""LangGraph with its SQLite checkpointer, `durability="sync"`: a checkpoint is written before the next superstep."""

# Of an environment that the type checkers do not see.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from graph import Runs, journal_mode, measured, parents, work
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    ran: Annotated[int, operator.add]


def node(number: int) -> Callable[[State], dict[str, Any]]:
    def noop(state: State) -> dict[str, Any]:
        return {"ran": work(number)}

    return noop


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    made = StateGraph(State)
    for number in range(nodes):
        made.add_node(f"n{number}", node(number))
    for number in range(nodes):
        above = parents(number, width)
        if above:
            made.add_edge([f"n{each}" for each in above], f"n{number}")
        else:
            made.add_edge(START, f"n{number}")
        if number >= nodes - width:
            made.add_edge(f"n{number}", END)
    connection = sqlite3.connect(directory / "langgraph.sqlite", check_same_thread=False)
    app = made.compile(checkpointer=SqliteSaver(connection))

    def invoke(given: dict[str, int] | None, name: str) -> int:
        options: dict[str, Any] = {"configurable": {"thread_id": name}}
        return int(app.invoke(given, options, durability="sync")["ran"])

    return Runs(lambda name: invoke({"ran": 0}, name), lambda name: invoke(None, name))


def durability(directory: Path) -> str:
    mode = journal_mode(directory / "langgraph.sqlite")
    return f'durability="sync", SQLite {mode}, one checkpoint a layer; nodes in threads of one process'


if __name__ == "__main__":
    measured("langgraph", durability, prepare)
