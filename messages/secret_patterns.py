"""What a secret looks like: tokens with a known form, passwords in addresses, and names that hold one.

Anchored patterns, no entropy rules: those call every commit hash and every embedding a secret. The forms are the
publishers' own (GitHub, GitLab, AWS, Stripe, ...), as collected by gitleaks and detect-secrets.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

__all__ = ["ASSIGNMENT", "KEY_NAME", "RULES", "Rule", "candidates", "hides", "spans"]

KEY_NAME = "key-name"  # the rule of a map's key such as `password`, with a text beside it


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind. `hints`: a text that holds none of these cannot match. `secret`, if a group, is what to hide.

    What it finds does not begin inside a word. (A look behind at the start of a pattern would say so, too, and
    make it ten times slower: the matcher then cannot jump to the first characters.)
    """

    name: str
    hints: tuple[str, ...]
    source: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return _compiled(self.source)  # at the first need: a worker's start pays for none


_E = r"(?![A-Za-z0-9])"


@cache
def _compiled(source: str) -> re.Pattern[str]:
    return re.compile(source)


def _rule(name: str, hints: str, source: str) -> Rule:
    return Rule(name, tuple(hints.split()), source)


RULES: tuple[Rule, ...] = (
    _rule("aws-access-key", "AKIA ASIA ABIA ACCA", r"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}" + _E),
    _rule("github-token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}" + _E),
    _rule("github-pat", "github_pat_", r"github_pat_[A-Za-z0-9_]{82}" + _E),
    _rule(
        "gitlab-token",
        "glpat- gldt- glrt- glcbt- glptt- glsoat- glft- glimt- glagent-",
        r"gl(?:pat|dt|rt|cbt|ptt|soat|ft|imt|agent)-[A-Za-z0-9_-]{20,}",
    ),
    _rule("slack-token", "xox", r"xox[abeoprs]-(?:\d+-)?[A-Za-z0-9-]{10,250}"),
    _rule("slack-webhook", "hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,}"),
    _rule("anthropic-key", "sk-ant-", r"sk-ant-[a-z0-9]{3,8}-[A-Za-z0-9_-]{40,}"),
    _rule(
        "openai-key",
        "sk-",
        r"sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{40,}"
        r"|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}|[A-Za-z0-9]{48})" + _E,
    ),
    _rule("openrouter-key", "sk-or-", r"sk-or-v1-[0-9a-f]{64}"),
    _rule("groq-key", "gsk_", r"gsk_[A-Za-z0-9]{52}" + _E),
    _rule("xai-key", "xai-", r"xai-[A-Za-z0-9]{80}" + _E),
    _rule("perplexity-key", "pplx-", r"pplx-[A-Za-z0-9]{48}" + _E),
    _rule("google-api-key", "AIza", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    _rule("google-oauth", "GOCSPX- ya29.", r"(?:GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,})"),
    _rule(
        "stripe-key",
        "k_live_ k_test_ k_prod_ whsec_",
        r"(?:[sr]k_(?:live|test|prod)_[A-Za-z0-9]{10,99}|whsec_[A-Za-z0-9+/=]{32,})",
    ),
    _rule("sendgrid-key", "SG.", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}"),
    _rule("twilio-key", "SK", r"SK[0-9a-f]{32}" + _E),
    _rule("npm-token", "npm_", r"npm_[A-Za-z0-9]{36}" + _E),
    _rule("pypi-token", "pypi-AgE", r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    _rule("huggingface-token", "hf_ api_org_", r"(?:hf_|api_org_)[A-Za-z]{34}" + _E),
    _rule("digitalocean-token", "dop_v1_ doo_v1_ dor_v1_", r"do[opr]_v1_[a-f0-9]{64}" + _E),
    _rule("databricks-token", "dapi", r"dapi[a-f0-9]{32}(?:-\d)?" + _E),
    _rule("linear-key", "lin_api_", r"lin_api_[A-Za-z0-9]{40}" + _E),
    _rule("notion-token", "ntn_", r"ntn_[0-9]{11}[A-Za-z0-9]{35}" + _E),
    _rule("telegram-token", ":AA", r":AA(?<=\d{8}:AA)[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])"),
    _rule(
        "discord-token",  # what is before the first dot is the number of the account
        "MT Mj Mz ND NT Nj Nz OD OT",
        r"\.(?:(?<=[MNO][\w-]{23}\.)|(?<=[MNO][\w-]{24}\.)|(?<=[MNO][\w-]{25}\.))[\w-]{6}\.[\w-]{27,38}(?![\w-])",
    ),
    _rule("shopify-token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}" + _E),
    _rule("doppler-token", "dp.pt.", r"dp\.pt\.[A-Za-z0-9]{43}" + _E),
    _rule("vault-token", "hvs. hvb.", r"hv[sb]\.[A-Za-z0-9_-]{24,}"),
    _rule(
        "grafana-token",
        "glsa_ glc_",
        r"(?:glsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}|glc_[A-Za-z0-9+/]{32,}={0,2})",
    ),
    _rule("sage-state-key", "sak1-", r"sak1-[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"),
    _rule("age-key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    _rule("jwt", "eyJ", r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{16,}"),
    _rule(
        "private-key",
        "PRIVATE",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?=[\s\\])"
        r"(?:[A-Za-z0-9+/=\s\\:,.()-]{40,}?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
        r"|[A-Za-z0-9+/=\s\\:,]{40,})",
    ),
    _rule(
        "azure-account-key",
        "AccountKey= SharedAccessKey=",
        r"(?:AccountKey|SharedAccessKey)=(?P<secret>[A-Za-z0-9+/]{40,}={0,2})",
    ),
    _rule(
        "url-password",
        "://",
        r"://[^\s:/?#@\[\]\"'<>]{0,128}:(?P<secret>[^\s:/?#@\"'<>{}$]{3,128})@[A-Za-z0-9\[]",
    ),
)
# Found by a name before it, in either case. Beside such a name nothing counts but what looks random.
ASSIGNMENT = Rule(
    "assignment",
    (),
    r"(?i)(?:pass(?:word|wd|phrase)|secret(?:[_-]?access)?(?:[_-]?key)?|(?:api|access|private|signing|encryption)"
    r"[_-]?key|(?:(?<=auth)|(?<=access)|(?<=refresh)|(?<=session)|(?<=auth[_-])|(?<=access[_-])|(?<=refresh[_-])"
    r"|(?<=session[_-]))token)\\*[\"']?\s*(?:=>|:=|=|:)\s*\\*[\"']?(?P<secret>[A-Za-z0-9_\-+/.=!@#%^&*~]{12,200})",
)
_AUTH_HEADER = Rule(
    "auth-header",
    (),
    r"(?i)(?:authorization\\*[\"']?\s*[:=]\s*\\*[\"']?\s*(?:bearer|basic|token)|bearer)\s+"
    r"(?P<secret>[A-Za-z0-9_\-.=+/~]{16,})",
)

_BY_HINT: dict[str, list[Rule]] = {}
for _each in RULES:
    for _hint in _each.hints:
        _BY_HINT.setdefault(_hint, []).append(_each)


def _alternatives(words: Iterable[str]) -> str:
    """Grouped by the first character, so that the matcher looks at one group."""
    groups: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        groups.setdefault(word[0], []).append(re.escape(word[1:]))
    return "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in groups.items())


_HINTS = re.compile(_alternatives(_BY_HINT).encode())
_WORDS = (
    r"passw|passp|secret|token|(?:api|access|private|signing|encryption).?key|authorization|bearer"
    r"|cookie|credential"
)
_WORD = re.compile(_WORDS)
_WORD_BYTES = re.compile(_WORDS.encode())


def candidates(data: bytes) -> tuple[Rule, ...]:
    """The rules that can match inside `data`, texts in whatever keeps ASCII, such as msgpack.

    Two passes in C. Nothing is the usual answer; `ASSIGNMENT` stands for names beside values, too.
    """
    found: dict[Rule, None] = {}
    for hint in set(_HINTS.findall(data)):
        found.update(dict.fromkeys(_BY_HINT[hint.decode()]))
    if _WORD_BYTES.search(data.lower()):
        found[ASSIGNMENT] = None
    return tuple(found)


def spans(text: str, rules: Iterable[Rule]) -> list[tuple[int, int, str]]:
    """Where secrets stand in `text`: (start, end, rule), as found."""
    out: list[tuple[int, int, str]] = []
    for rule in rules:
        if rule is ASSIGNMENT:
            out += _named(text)
            continue
        pattern = rule.pattern
        group = "secret" if "secret" in pattern.groupindex else 0
        for match in pattern.finditer(text):
            start, end = match.span(group)
            if not _is_inside(text, start) and not _is_placeholder(match[group]):
                out.append((start, end, rule.name))
    return out


def _is_inside(text: str, start: int) -> bool:
    """Whether a word goes on there; other scripts, and bytes that are no text, are no part of it."""
    pair = text[max(start - 1, 0) : start + 1]
    return len(pair) == 2 and pair.isascii() and pair.isalnum()


def _named(text: str) -> Iterator[tuple[int, int, str]]:
    """What stands behind a name such as `password =`."""
    for word in _WORD.finditer(_lower(text)):
        rule = _AUTH_HEADER if word[0] in ("authorization", "bearer") else ASSIGNMENT
        match = rule.pattern.match(text, word.start())
        if match and not _is_placeholder(match["secret"]) and _looks_random(match["secret"]):
            yield (*match.span("secret"), rule.name)


def _lower(text: str) -> str:
    """In lower case, character for character."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c.lower() if c.isascii() else c for c in text)


_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-.\s]")
_STRONG = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|secret|secret_?key|api_?key|access_?key|private_?key|signing_?key"
    r"|encryption_?key|client_?secret|(?:auth|access|refresh|session|bearer|bot|api)_?token)$"
)
_WEAK = re.compile(r"(?:^|_)(?:token|cookie|authorization|credentials?)$")
_PAGING = re.compile(r"(?:^|_)(?:page|next|cursor|continuation|sync)_?token$")
_NO_LITERAL = re.compile(
    r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[/~.].*|.*\.(?:pem|key|txt|json|toml|ya?ml|crt|p12)"  # a variable, a path
    r"|(?i:str|string|text|bool|boolean|bytes|object|any|required|optional|missing|unset|not[-_ ]?set|none|null)"
)


def hides(name: str, value: str) -> bool:
    """Whether `value` beside the name `name` is a secret: `password` beside any literal, `token` if it looks so."""
    if len(value) < 4 or len(value) > 4096 or " " in value or "\n" in value:
        return False
    plain = _WORD_BREAK.sub("_", name).lower()
    if _STRONG.search(plain):
        return not (_is_placeholder(value) or _NO_LITERAL.fullmatch(value) or _is_code(value))
    if _WEAK.search(plain) and not _PAGING.search(plain):
        return not _is_placeholder(value) and _looks_random(value)
    return False


_PLACEHOLDER = re.compile(
    r"x{5,}|\*{3,}|\.{3,}|0{8,}|1234567890|abcdefghij|AAECAwQF|example|your[-_]|placeholder|redacted|changeme|dummy",
    re.IGNORECASE,
)
_WHOLE_PLACEHOLDER = re.compile(
    r"(?:null|none|true|false|test|todo|pass|passwd|pwd|password|secret|token|hunter2|s3cr3t|user|<.*>?|\$.*"
    r"|\{.*|%\(?.*|\[.*)",
    re.IGNORECASE,
)


def _is_placeholder(said: str) -> bool:
    """What stands in documentation: AWS's examples, rows of x, `<token>`, `${env.TOKEN}`."""
    return bool(_WHOLE_PLACEHOLDER.fullmatch(said) or _PLACEHOLDER.search(said)) or len(set(said)) < 4


def _is_code(said: str) -> bool:
    return "(" in said or bool(re.search(r"[a-z]\.[a-z]", said))


def _looks_random(said: str) -> bool:
    """Letters and digits mixed as no word or path mixes them."""
    if len(said) < 12 or not (re.search(r"\d", said) and re.search(r"[A-Za-z]", said)):
        return False
    return _entropy(said) >= 3.2 and not re.search(r"\w\.[a-z]|\(|_[a-z]+_[a-z]+|^[/.~]", said)


def _entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    total = len(text)
    return -sum(count / total * math.log2(count / total) for count in Counter(text).values())
