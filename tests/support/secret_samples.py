"""Tokens of every kind that a rule knows, drawn anew for each test: nothing that looks like one is in this file."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable

LOWER_HEX = "0123456789abcdef"
WORD = string.ascii_letters + string.digits
URL64 = WORD + "-_"
BASE64 = WORD + "+/"
BECH32 = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
BASE32 = string.ascii_uppercase + "234567"


class Draw:
    """Random texts from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, alphabet: str, count: int) -> str:
        return "".join(self._random.choices(alphabet, k=count))

    def word(self, count: int) -> str:
        """Letters and digits, both for certain, and ending in none of what a sentence ends in."""
        return (
            self(string.ascii_lowercase, 1)
            + self(string.digits, 1)
            + self(WORD, count - 3)
            + self(string.digits, 1)
        )


def _jwt(draw: Draw) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=")
        for each in ({"alg": "HS256", "typ": "JWT"}, {"sub": draw(string.digits, 10), "name": draw(WORD, 8)})
    ]
    return ".".join([*parts, draw(URL64, 42) + "a"])


def _pem(draw: Draw) -> str:
    kind = "PRIVATE" + " KEY"
    body = "\n".join(draw(BASE64, 64) for _ in range(6))
    return f"-----BEGIN RSA {kind}-----\n{body}\n-----END RSA {kind}-----"


def _discord(draw: Draw) -> str:
    return f".{draw(WORD, 6)}.{draw(URL64, 30)}{draw(WORD, 1)}"


# rule -> (what stands before the secret, what makes the secret, what stands behind it); most secrets stand alone
SAMPLES: dict[str, Callable[[Draw], tuple[str, str, str]]] = {
    "aws-access-key": lambda d: ("", "AKI" + "A" + d(BASE32, 16), ""),
    "github-token": lambda d: ("", "gh" + "p_" + d(WORD, 36), ""),
    "github-pat": lambda d: ("", "github" + "_pat_" + d(WORD, 22) + "_" + d(WORD, 59), ""),
    "gitlab-token": lambda d: ("", "glp" + "at-" + d(WORD, 20), ""),
    "slack-token": lambda d: ("", "xox" + "b-" + d(string.digits, 12) + "-" + d(WORD, 24), ""),
    "slack-webhook": lambda d: (
        "https://",
        "hooks.slack" + ".com/services/T" + d(WORD, 8) + "/B" + d(WORD, 8) + "/" + d(WORD, 24),
        "",
    ),
    "anthropic-key": lambda d: ("", "sk-" + "ant-api03-" + d(URL64, 90) + "AA", ""),
    "openai-key": lambda d: ("", "sk-" + "proj-" + d(WORD, 60), ""),
    "openrouter-key": lambda d: ("", "sk-" + "or-v1-" + d(LOWER_HEX, 64), ""),
    "groq-key": lambda d: ("", "gs" + "k_" + d(WORD, 52), ""),
    "xai-key": lambda d: ("", "xa" + "i-" + d(WORD, 80), ""),
    "perplexity-key": lambda d: ("", "ppl" + "x-" + d(WORD, 48), ""),
    "google-api-key": lambda d: ("", "AI" + "za" + d(WORD, 35), ""),
    "google-oauth": lambda d: ("", "GOC" + "SPX-" + d(WORD, 28), ""),
    "stripe-key": lambda d: ("", "sk" + "_live_" + d(WORD, 24), ""),
    "sendgrid-key": lambda d: ("", "S" + "G." + d(WORD, 22) + "." + d(WORD, 43), ""),
    "twilio-key": lambda d: ("", "S" + "K" + d(LOWER_HEX, 32), ""),
    "npm-token": lambda d: ("", "np" + "m_" + d(WORD, 36), ""),
    "pypi-token": lambda d: ("", "py" + "pi-AgEIcHlwaS5vcmc" + d(URL64, 120) + "x", ""),
    "huggingface-token": lambda d: ("", "h" + "f_" + d(string.ascii_letters, 34), ""),
    "digitalocean-token": lambda d: ("", "dop" + "_v1_" + d(LOWER_HEX, 64), ""),
    "databricks-token": lambda d: ("", "da" + "pi" + d(LOWER_HEX, 32), ""),
    "linear-key": lambda d: ("", "lin" + "_api_" + d(WORD, 40), ""),
    "notion-token": lambda d: ("", "nt" + "n_" + d(string.digits, 11) + d(WORD, 35), ""),
    "telegram-token": lambda d: (d(string.digits, 10), ":A" + "A" + d(WORD, 33), ""),
    "discord-token": lambda d: ("MT" + d(WORD, 22), _discord(d), ""),
    "shopify-token": lambda d: ("", "shp" + "at_" + d(LOWER_HEX, 32), ""),
    "doppler-token": lambda d: ("", "dp." + "pt." + d(WORD, 43), ""),
    "vault-token": lambda d: ("", "hv" + "s." + d(WORD, 24), ""),
    "grafana-token": lambda d: ("", "gl" + "sa_" + d(WORD, 32) + "_" + d(LOWER_HEX, 8), ""),
    "sage-state-key": lambda d: ("", "sa" + "k1-" + d(WORD, 43), ""),
    "age-key": lambda d: ("", "AGE-SECRET" + "-KEY-1" + d(BECH32, 58), ""),
    "jwt": lambda d: ("", _jwt(d), ""),
    "private-key": lambda d: ("", _pem(d), ""),
    "azure-account-key": lambda d: ("AccountName=x;Account" + "Key=", d(WORD, 86) + "==", ";"),
    "url-password": lambda d: ("postgres" + "://app:", d.word(16), "@db.internal:5432/app"),
    "auth-header": lambda d: ("Authorization: " + "Bearer ", d.word(40), ""),
    "assignment": lambda d: ("client_sec" + "ret = ", d.word(32), ""),
}
KINDS = sorted(SAMPLES)


def sample(kind: str, seed: int) -> tuple[str, str]:
    """A text that holds a secret of that kind, and the secret."""
    before, secret, behind = SAMPLES[kind](Draw(seed))
    return before + secret + behind, secret
