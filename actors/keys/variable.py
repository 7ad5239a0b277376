"""The environment variable that may hold the keys, and how the command line keeps it from what it starts.

A program inherits the environment, shows it in /proc/PID/environ, and passes it on. So the command line takes the
variable out before it does anything, and `load_keys` finds it here. (A library leaves its user's environment alone.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

__all__ = ["KEY_VARIABLE", "given_keys", "keys_taken_from"]

KEY_VARIABLE = "SAGE_STATE_KEY"

_taken: str | None = None


@contextmanager
def keys_taken_from(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Inside, `environ` does not have the variable; it is put back at the end."""
    global _taken
    before, _taken = _taken, environ.pop(KEY_VARIABLE, None)
    try:
        yield
    finally:
        if _taken is not None:
            environ[KEY_VARIABLE] = _taken
        _taken = before


def given_keys(environ: Mapping[str, str]) -> str | None:
    """What the variable holds, or held when it was taken; None if it was not set."""
    return environ.get(KEY_VARIABLE, _taken)
