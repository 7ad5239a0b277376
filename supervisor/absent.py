"""What `Supervisor` and `load` are inside a worker: names that can be imported, and say why they cannot be used.

A script's workers import the script; loading the whole supervisor for its sake would cost each of them a third
of a second. And a script without the `__main__` guard would start supervisors in its own workers without end.
"""

from __future__ import annotations

from typing import Any, NoReturn

from sage_actors.messages.errors import UsageError

__all__ = ["Supervisor", "load"]


class Supervisor:
    """Stands for the real one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        _refuse()


def load(path: object) -> NoReturn:
    """Stands for the real one."""
    _refuse()


def _refuse() -> NoReturn:
    raise UsageError(
        "a Supervisor cannot be used inside a worker process; if this is your script, put what starts it under "
        'if __name__ == "__main__": because workers import the script too'
    )
