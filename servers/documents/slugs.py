"""The folder name of a topic: readable, safe in any file system, and different for topics that read differently.

Topics that differ in case or in what stands between their words share one; what is there of the other is kept
(`documents.py`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["MAX_SLUG", "check_slug", "choose_slug", "headline", "slug_of"]

MAX_SLUG = 60
_HASH_DIGITS = 8
_LOST = re.compile(r"[^a-z0-9]+")
_PLAIN = re.compile(r"[a-z0-9 \-_./,:;'\"()]*")  # what may become `-` without two topics becoming one
_ERROR = re.compile(r"\b\w*(Error|Exception|panic|panicked)\b:?")
_RAISED = re.compile(
    r"^[ \t]+File \"[^\n]*\n(?:[ \t]+[^\n]*\n)*(\S[^\n]*)", re.MULTILINE
)  # below the last frame
_TOLD = (  # of pytest, cargo, go test, TAP and the compilers that name a package first
    re.compile(r"^FAILED \S*?::(\S+) - (.+)$", re.MULTILINE),
    re.compile(r"^thread '[^'\n]*' (?:\(\d+\) )?panicked at (?:'([^'\n]+)'|[^\n]+:\n([^\n]+))", re.MULTILINE),
    re.compile(r"^[ \t]*--- FAIL: (\w+)", re.MULTILINE),
    re.compile(r"^[ \t]*not ok \d+ (?:- )?([^\n]*[^\n#\s])", re.MULTILINE),
    re.compile(r"\A# \S+\n(\S+:\d+:\d+: [^\n]+)"),
)
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def slug_of(topic: str) -> str:
    """`topic` in lower case with `-` for all but letters and digits, at most 60 characters.

    Where characters were lost (not ASCII, a symbol that carries meaning, too long, none left) it ends in
    `-` and eight hex digits of the SHA-256 of the topic, so that "C++" and "C#" do not share a folder. Of a
    text of many lines, such as a traceback, the headline is what is readable.

    >>> slug_of("Rate limiting for the public API")
    'rate-limiting-for-the-public-api'
    >>> slug_of("C++") == slug_of("C#")
    False
    """
    whole = unicodedata.normalize("NFC", topic).strip()
    plain = headline(whole).lower()
    slug = _LOST.sub("-", plain).strip("-")
    if slug and len(slug) <= MAX_SLUG and _PLAIN.fullmatch(plain) and "\n" not in whole:
        return slug
    digest = hashlib.sha256(topic.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{_cut(slug)}-{digest}".lstrip("-")


def choose_slug(topic: str, *said: object) -> str:
    """The first of `said` that says something, checked; where none does, or it is no text, one of the topic.

    Raises:
        ValueError: what was said is no slug.
    """
    named = next((each for each in said if each), None)
    return check_slug(named) if isinstance(named, str) else slug_of(topic)


def headline(topic: str) -> str:
    """What a text is about: what a test tool says of the first test that failed, else the last line that names an
    error, else the first with a word, if any."""
    told = (
        next((found for pattern in _TOLD if (found := pattern.search(topic))), None)
        if "\n" in topic
        else None
    )
    if told is not None:
        return ": ".join(part.strip() for part in told.groups() if part)
    lines = [line.strip() for line in topic.splitlines() if re.search(r"\w", line)]
    lines = lines or [line.strip() for line in topic.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)] if len(lines) > 1 else []
    if not errors and lines and lines[0].startswith("Traceback"):
        errors = _RAISED.findall(topic) or lines[-1:]  # the exception's class need not be called an error
    return (errors[-1:] or lines[:1] or [""])[0].removeprefix("E ").strip()


def check_slug(slug: str) -> str:
    """`slug`, if a folder may have that name.

    Raises:
        ValueError: it is no slug; says what one looks like.
    """
    if len(slug) <= MAX_SLUG + 1 + _HASH_DIGITS and _SLUG.fullmatch(slug):
        return slug
    raise ValueError(
        f"{slug[:80]!r} is no slug: lower-case letters, digits and single `-`, at most {MAX_SLUG} characters"
    )


def _cut(slug: str) -> str:
    """At most what leaves room for the hash, at the end of a word where there is one."""
    room = MAX_SLUG - 1 - _HASH_DIGITS
    if len(slug) <= room:
        return slug
    head = slug[: room + 1].rpartition("-")[0]
    return head if len(head) > room // 2 else slug[:room].rstrip("-")
