"""What servers of `.mcp.json` need that the user consented to, and what a stdio server gets for itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage_actors.messages.errors import DefinitionError
from sage_actors.sandbox.profile import is_beneath

if TYPE_CHECKING:
    from sage_actors.actors.mcp.config import ServerEntry

__all__ = ["ANY_OTHER", "consented_servers", "is_trusted", "named_files", "server_variables"]

ANY_OTHER = ""
"""In place of a server's name: one that was not known when its worker started."""

_NOT_THEIRS = ("SAGE_", "XDG_")  # of this package, or places in a home that is not theirs


def consented_servers(project: Path, environ: Mapping[str, str]) -> list[ServerEntry]:
    """The servers that may be started; none where the file cannot be used, which is said when one is asked for."""
    from sage_actors.actors.mcp.config import load_servers
    from sage_actors.actors.trust.consents import TrustStore

    store = TrustStore()
    try:
        entries = load_servers(project, environ).values()
    except DefinitionError:
        return []
    return [each for each in entries if each.may_start and store.trusts(project, each.trust_item())]


def is_trusted(entry: ServerEntry, trusted: Sequence[str]) -> bool:
    """Whether the user said `trusted = ["mcp:NAME"]`: the server shares its worker's sandbox, and all that is in it."""
    return f"mcp:{entry.name}" in trusted


def server_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those of the user's variables from which a server may get the harmless ones; others its entry names."""
    return {name: value for name, value in environ.items() if not name.startswith(_NOT_THEIRS)}


def named_files(words: Sequence[str]) -> Iterable[str]:
    """What a command line that the user consented to names outside: a program with the packages that it is among."""
    for word in words:
        for part in word.replace(";", " ").split():
            path = os.path.expanduser(part)
            real = os.path.realpath(path)
            if os.path.isabs(path) and os.path.exists(path) and not is_beneath(os.path.expanduser("~"), real):
                head, found, _ = real.rpartition("/node_modules/")
                yield path
                yield head + "/node_modules" if found else real
