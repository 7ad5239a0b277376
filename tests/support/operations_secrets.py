"""Operations that are careless with secrets."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pydantic

from sage_actors import Context


def leak(secret: str, context: Context) -> dict[str, Any]:
    """Says it everywhere that an operation can speak."""
    print("out:", secret)
    print("err:", secret, file=sys.stderr)
    os.write(1, b"raw " + secret.encode()[:5])
    time.sleep(0.02)  # the first half may have left by now
    os.write(1, secret.encode()[5:] + b"\n")
    context.log(f"logged {secret}")
    context.progress(0.5, f"working with {secret}")
    return {
        "plain": secret,
        "list": [f"Bearer {secret}"],
        secret: 1,
        "hex": secret.encode().hex(),
        "raw": secret.encode(),
    }


async def leak_async(secret: str, context: Context) -> str:
    print("async:", secret)
    context.log(f"logged {secret}")
    return base64.b64encode(f"user:{secret}".encode()).decode()


def fail_with(secret: str) -> None:
    error = ValueError(f"refused: {secret}")
    error.details = {"sent": secret}  # type: ignore[attr-defined]
    raise error


def fail_far_with(secret: str, before: int) -> None:
    raise ValueError("." * before + secret)


def die_with(secret: str) -> None:
    os.write(2, f"last words: {secret}".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def read(path: str) -> str:
    """Gets at it without having been told."""
    return Path(path).read_text()


def mint(path: str) -> dict[str, str]:
    """A secret of its own, another one each time; notes that it was made."""
    with open(path, "a") as file:
        file.write("minted\n")
    return {"token": "minted-" + os.urandom(12).hex()}


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def digest_and_wait(token: str, path: str, gate: str) -> str:
    Path(path).touch()
    while not Path(gate).exists():
        time.sleep(0.005)
    return digest_of(token)


def say_token(token: str) -> str:
    print("got", token)
    return f"used {token}"


def model() -> Any:
    return {"user": "app", "password": pydantic.SecretStr("tr0ub4dor&3")}


def invent(value: str) -> str:
    """Returns what it is given in halves, put together."""
    left, right = value.split("|")
    return left + right
