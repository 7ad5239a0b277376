"""Where the project's own files lie, for tests that read or start them."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]
SOURCES = ROOT / "src"
