"""The keys in the operating system's keychain, through the `keyring` package where it is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_actors.messages.errors import KeyUnusableError

__all__ = ["KEYCHAIN_SERVICE", "KEYCHAIN_USER", "KeychainClosedError", "ask_keychain", "tell_keychain"]

KEYCHAIN_SERVICE = "sage-actors"
KEYCHAIN_USER = "state-key"
# Modules of the backends that an operating system protects. With `keyrings.alt` installed, keyring picks
# a plain text file without a word.
_SAFE_BACKENDS = frozenset(
    f"keyring.backends.{name}" for name in ("macOS", "SecretService", "libsecret", "kwallet", "Windows")
)


class KeychainClosedError(Exception):
    """There is a keychain, and it did not answer (locked, no session)."""


def ask_keychain() -> str | None:
    """What the keychain holds for us; None where there is no keychain that the system protects.

    Raises:
        KeychainClosedError: it did not answer.
    """
    try:
        backend = _backend()
        return None if backend is None else backend.get_password(KEYCHAIN_SERVICE, KEYCHAIN_USER)
    except Exception as cause:  # backends raise what their bus or library raises
        raise KeychainClosedError(type(cause).__name__) from cause


def tell_keychain(text: str) -> None:
    """Put `text` in the place of what the keychain holds for us, and read it again.

    Raises:
        KeyUnusableError: there is none that the system protects, or it did not keep it.
    """
    try:
        backend = _backend()
        if backend is None:
            raise KeyUnusableError(
                "there is no keychain here that the system protects; use a key file or $SAGE_STATE_KEY"
            )
        backend.set_password(KEYCHAIN_SERVICE, KEYCHAIN_USER, text)
        kept = backend.get_password(KEYCHAIN_SERVICE, KEYCHAIN_USER)
    except KeyUnusableError:
        raise
    except Exception as cause:  # noqa: BLE001 - as above; the text of such an error may repeat what was to be kept
        raise KeyUnusableError(f"the keychain refused ({type(cause).__name__}); unlock it") from None
    if kept != text:
        raise KeyUnusableError("the keychain did not keep what it was given; use a key file")


def _may_be_there(environ: Mapping[str, str]) -> bool:
    """Whether a keychain that the system protects can answer. Those of Linux are reached through the session's bus."""
    named = environ.get("PYTHON_KEYRING_BACKEND", "").rpartition(".")[0]
    if named and named != "keyring.backends.chainer":
        return named in _SAFE_BACKENDS
    if sys.platform != "linux" or environ.keys() & {"DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"}:
        return True
    return Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "bus").exists()


def _backend() -> Any:
    if not _may_be_there(os.environ) or importlib.util.find_spec("keyring") is None:
        return None
    import keyring  # 100 ms and more: only where no key is in the environment, and a keychain can be

    backend = keyring.get_keyring()
    parts = getattr(backend, "backends", None) or [backend]  # the chainer asks several in turn
    return backend if {type(part).__module__ for part in parts} <= _SAFE_BACKENDS else None
