"""Characters that a reader does not see and that a terminal, or a model, obeys: for classes of regular expressions."""

from __future__ import annotations

from typing import Final

__all__ = ["UNSEEN"]

UNSEEN: Final = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f\U000e0100-\U000e01ef"
"""What ends lines and turns the direction of text; tags, which spell ASCII, and selectors, which spell bytes: what they
say is read by models alone. Joiners are no such characters: words and pictures need them."""
