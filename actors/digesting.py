"""What dependents see of a result that declares a digest: as much as its budget holds, the most relevant first.

It is made in the worker, where the whole result is. The whole rides along once, to be kept in the cache; the
journal gets the digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_actors.actors.operations.context import Task
from sage_actors.actors.workers.redaction import Redactor, add_note
from sage_actors.actors.workers.worker import pack_result
from sage_actors.messages.codec import MAX_RESULT_BYTES, unpack
from sage_actors.messages.digest import digest_value
from sage_actors.messages.secret_scan import SecretsPolicy

__all__ = ["pack_digest", "query_of"]

_ASKED_BY = ("topic", "query", "question", "error", "prompt", "text", "title")
_QUERY_CHARS = 500


def pack_digest(
    value: object,
    task: Task,
    spec: Mapping[str, Any],
    redactor: Redactor,
    policy: SecretsPolicy,
    most: int = MAX_RESULT_BYTES,
) -> bytes:
    """The packed digest of `value`; sizes before and after, and the whole, go to `task.used`.

    Args:
        spec: of the definition: max_tokens, max_bytes, top, threshold, query; none is a must.
        most: bytes of the digest; the whole may have MAX_RESULT_BYTES.

    Raises:
        ResultError: the result cannot be carried.
        LimitExceeded: it is too large even before it is digested, or after.
        SecretInStateError: as `Redactor.result`.
    """
    whole, findings = redactor.result(pack_result(value, task.node_id), task.node_id, policy=policy)
    task.used = add_note(task.used, findings)
    query = spec.get("query") or query_of(unpack(task.packed), task)
    limits = {name: spec[name] for name in ("max_tokens", "max_bytes", "top", "threshold") if spec.get(name)}
    digest, count = digest_value(unpack(whole), query, **limits)
    used = task.used = task.used or {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
    used["raw_bytes"] = max(count.raw_bytes, used.get("raw_bytes", 0))  # a server may have digested before
    used["raw_tokens"] = max(count.raw_tokens, used.get("raw_tokens", 0))
    used.update(kept_bytes=count.kept_bytes, kept_tokens=count.kept_tokens, tokenizer=count.tokenizer)
    packed = pack_result(digest, task.node_id, most)
    if packed != whole and len(packed) + len(whole) < MAX_RESULT_BYTES:
        used["whole"] = whole
    return packed


def query_of(sent: Mapping[str, Any], task: Task) -> str:
    """What the operation was about, by its arguments: their topic, query, error, ...; else the node's name."""
    arguments = sent.get("arguments") or {}
    config = sent.get("config") or {}
    for source in (arguments, config):
        for name in _ASKED_BY:
            said = source.get(name) if isinstance(source, Mapping) else None
            if isinstance(said, str) and said.strip():
                return said[:_QUERY_CHARS]
    texts = [each for each in arguments.values() if isinstance(each, str)]
    return " ".join(texts)[:_QUERY_CHARS] or task.node_id.replace("/", " ").replace("_", " ")
