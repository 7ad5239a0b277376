"""Parses Python that somebody else wrote: any encoding, and a reason where it cannot be parsed."""

from __future__ import annotations

import ast
import warnings

from sage_actors.servers.patterns.facts import UnreadableError

__all__ = ["parse_python"]


def parse_python(source: bytes) -> ast.Module:
    """The tree of a file, its declared encoding and byte order mark respected; else as UTF-8 with gaps.

    Raises:
        UnreadableError: it is not Python 3, or nested too deeply.
    """
    try:
        return _parse(source)
    except (SyntaxError, ValueError) as error:
        try:
            source.decode("utf-8")
        except UnicodeDecodeError:
            return _parse_with_gaps(source)
        raise UnreadableError(f"not Python 3: {_reason(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("nested too deeply to be parsed") from error


def _parse_with_gaps(source: bytes) -> ast.Module:
    try:
        return _parse(source.decode("utf-8", errors="replace"))
    except (SyntaxError, ValueError) as error:
        raise UnreadableError(f"neither UTF-8 nor Python 3: {_reason(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise UnreadableError("nested too deeply to be parsed") from error


def _parse(source: str | bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in somebody else's code
        return ast.parse(source)


def _reason(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} (line {error.lineno})"
    return str(error)
