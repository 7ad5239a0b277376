"""Secrets in values: found wherever they stand, and nothing else is touched."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import tempfile
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden.make import HERE as GOLDEN
from golden.make import RUNS
from places import ROOT
from secret_samples import KINDS, sample

from sage_actors.actors.keys.provider import KeyRing, load_keys
from sage_actors.actors.state.journal import read_journal
from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.errors import SecretInStateError
from sage_actors.messages.records import NodesSucceeded, decode_records
from sage_actors.messages.secret_scan import (
    Allowed,
    find_secrets,
    redact,
    redact_packed,
    redact_text,
    refuse_secrets,
    secret_problems,
    without_known,
)
from sage_actors.messages.secret_values import KnownValues

pytestmark = pytest.mark.requirement("ORCH-016")
POSITIONS: dict[str, Callable[[str], Any]] = {
    "value": lambda text: {"out": {"items": [1, {"note": text}]}},
    "key": lambda text: {"seen": {text: 1}},
    "text": lambda text: f"the command printed {text} and went on",
    "JSON in a text": lambda text: {"stdout": json.dumps({"nested": [text]})},
    "JSON in JSON in a text": lambda text: [json.dumps(json.dumps({"nested": text}))],
    "bytes": lambda text: {"body": b"\x00\xff" + text.encode() + b"\n"},
    "error": lambda text: {
        "type": "ValueError",
        "message": f"bad credentials ({text})",
        "traceback": f'  f("{text}")\n',
    },
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_taken_out_of_each_position(kind: str, position: str) -> None:
    text, secret = sample(kind, 5)
    if kind == "private-key" and "JSON" in position:
        secret = secret.splitlines()[2]  # as JSON its lines are joined by \n
    value = POSITIONS[position](text)
    clean, findings = redact_packed(pack(value))
    assert findings
    assert secret.encode() not in clean
    assert secret not in repr(unpack(clean))
    assert all(secret not in finding.path for finding in findings)


def test_what_is_left_is_the_value_that_it_was() -> None:
    text, _ = sample("github-token", 1)
    value = {"a": [1, None, 2.5, True], "b": f"x {text} y", 3: b"\x00", "c": {"d": ()}}
    clean, findings = redact(value)
    assert clean == {**value, "b": "x [redacted:github-token] y"}
    assert findings == [("github-token", "$.b")]


def test_a_value_without_secrets_comes_back_as_it_is() -> None:
    value = {"password": "${env.PASSWORD}", "tokens": 12}
    packed = pack(value)
    assert redact(value)[0] is value
    assert redact_packed(packed)[0] is packed


def test_the_secret_beside_a_name_is_taken_and_the_name_stays() -> None:
    clean, findings = redact({"db": {"user": "app", "password": "tr0ub4dor&3"}})
    assert clean == {"db": {"user": "app", "password": "[redacted:key-name]"}}
    assert findings == [("key-name", "$.db.password")]


def test_two_keys_that_were_secrets_stay_two() -> None:
    keys = [sample("github-token", seed)[0] for seed in (1, 2)]
    clean, _ = redact({keys[0]: 1, keys[1]: 2})
    assert sorted(clean.values()) == [1, 2]
    assert not any(key in repr(clean) for key in keys)


def test_a_known_value_and_a_pattern_at_one_place_are_one_finding() -> None:
    text, _ = sample("github-token", 1)
    known = KnownValues()
    known.add([("env.GITHUB_TOKEN", text)])
    assert redact_text(f"use {text}", known=known) == (
        "use [redacted:env.GITHUB_TOKEN]",
        [("env.GITHUB_TOKEN", "$")],
    )


def test_a_known_value_is_found_in_the_shortest_texts() -> None:
    known = KnownValues()
    known.add([("env.PIN", "739156")])
    assert redact(["739156"], known=known)[0] == ["[redacted:env.PIN]"]
    assert redact_packed(pack("739156"), known=known)[0] == pack("[redacted:env.PIN]")


def test_what_is_allowed_by_rule_and_path_stays() -> None:
    text, _ = sample("github-token", 1)
    value = {"a": text, "b": text}
    clean, findings = redact(value, allow=(Allowed("github-*", "$.a"),))
    assert (clean["a"], clean["b"]) == (text, "[redacted:github-token]")
    assert findings == [("github-token", "$.b")]
    assert find_secrets(value, allow=(Allowed(path="$.*"),)) == []


def test_values_that_cannot_be_packed_are_looked_through_all_the_same() -> None:
    text, _ = sample("github-token", 1)
    assert [each.rule for each in find_secrets({"a": object(), "b": {1, 2}, "c": [text]})] == ["github-token"]


def test_known_values_are_found_in_bytes_and_in_keys_that_are_bytes() -> None:
    known = KnownValues()
    known.add([("env.X", "pässwörd-7")])
    raw = b"\xff\x00" + "pässwörd-7".encode() + b"\xfe"
    clean = without_known({"a": raw, raw: 1}, known)
    assert clean == {"a": b"\xff\x00[redacted:env.X]\xfe", b"\xff\x00[redacted:env.X]\xfe": 1}


def test_a_look_for_known_values_leaves_what_only_looks_like_a_secret() -> None:
    known, text = KnownValues(), sample("github-token", 1)[0]
    known.add([("env.X", "known-value")])
    assert without_known([text, "known-value"], known) == [text, "[redacted:env.X]"]


def test_deep_nesting_is_no_way_past() -> None:
    text, _ = sample("github-token", 1)
    value: Any = text
    for _ in range(300):
        value = [value]
    assert len(redact_packed(pack(value))[1]) == 1


def test_a_refusal_names_rule_and_place_and_never_the_value() -> None:
    text, _ = sample("github-token", 1)
    with pytest.raises(
        SecretInStateError, match=r"\$\.a\[0\]: holds a secret itself \(github-token\)"
    ) as refused:
        refuse_secrets({"a": [text]}, "the given data")
    assert text not in str(refused.value)
    assert refused.value.exit_code == 2
    assert [each.place for each in secret_problems({"a": text}, "inputs.x")] == ["inputs.x.a"]


# ---------------------------------------------------------------------- what is no secret


PLANTED = {"tests/golden/format-1/about.json", "tests/runs/test_flow.py"}  # these hold a key, and a secret


def of_the_repository() -> Iterator[tuple[str, Any]]:
    """Each file as the result of a command that printed it, and as data where it is."""
    readers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".toml": tomllib.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    for folder in (
        "messages",
        "actors",
        "supervisor",
        "servers",
        "templates",
        "tests",
        "bench",
        "docs",
        "examples",
        "plugin",
        ".",
    ):
        for path in sorted((ROOT / folder).glob("*" if folder == "." else "**/*")):
            if not path.is_file() or "__pycache__" in path.parts or path.suffix in (".pyc", ".so", ".sqlite"):
                continue
            if path.name.startswith(".") or path.relative_to(ROOT).as_posix() in PLANTED:
                continue
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue
            yield str(path), {"exit_code": 0, "stdout": text, "stderr": "", "path": str(path)}
            if path.suffix in readers and path.name != "mkdocs.yml":  # which has tags of its own
                yield f"{path} (data)", readers[path.suffix](text)


def of_golden_runs() -> Iterator[tuple[str, Any]]:
    """Every record of every run that earlier versions left, and each result in it."""
    for version in sorted(GOLDEN.glob("format-*")):
        about = json.loads((version / "about.json").read_text())
        keys = load_keys(environ={"SAGE_STATE_KEY": about["key"]})
        for run in RUNS:
            for _, plaintext in _frames(version / run, keys):
                for record in decode_records(plaintext):
                    yield f"{version.name} {run}", {name: getattr(record, name) for name in record.__slots__}
                    if isinstance(record, NodesSucceeded):
                        yield from ((f"{run} {row[0]}", unpack(row[3])) for row in record.rows if row[3])


def _frames(run: Path, keys: KeyRing) -> list[tuple[Any, bytes]]:
    """Those of a run's journal; git keeps no modes, and state that others can read is refused."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(run, Path(folder) / "run"))
        for path in (copy, *copy.iterdir()):
            path.chmod(0o700 if path.is_dir() else 0o600)
        return list(read_journal(copy, keys).frames)


def of_workflows() -> Iterator[tuple[str, Any]]:
    """What operations return: identifiers, digests, images, embeddings, calls of tools, references, pages."""
    draw = random.Random(11)
    for i in range(300):
        raw = draw.randbytes(600)
        yield (
            f"object {i}",
            {
                "id": str(uuid.UUID(bytes=raw[:16], version=4)),
                "commit": hashlib.sha1(raw).hexdigest(),
                "digest": "sha256:" + hashlib.sha256(raw).hexdigest(),
                "integrity": "sha512-" + base64.b64encode(hashlib.sha512(raw).digest()).decode(),
                "etag": f'W/"{raw[:10].hex()}"',
                "image": "data:image/png;base64," + base64.b64encode(raw).decode(),
                "url_safe": base64.urlsafe_b64encode(raw).decode(),
                "embedding": [draw.gauss(0, 1) for _ in range(8)],
                "tool_call_id": f"call_{raw[:12].hex()}",
                "message": {"id": f"msg_{raw[:12].hex()}", "usage": {"input_tokens": i, "output_tokens": 7}},
                "next_page_token": base64.urlsafe_b64encode(raw[:24]).decode(),
                "cache_key": hashlib.md5(raw).hexdigest(),
                "primary_key": f"user-{i}-{raw[:4].hex()}",
                "headers": {"authorization": "${env.TOKEN}", "cookie": "", "x-request-id": raw[:16].hex()},
                "argv": ["psql", "postgres://app:${keyring.db}@db/app", "--token", "$TOKEN"],
                "blob": raw,
                "page": f"https://example.org/a/{raw[:8].hex()}?token_type=bearer&page={i}#L{i}",
                "text": "Set the password in the settings; the secret stays in your key ring. token = next(tokens)",
            },
        )


@pytest.mark.parametrize("corpus", [of_the_repository, of_golden_runs, of_workflows])
def test_state_that_holds_no_secret_is_left_alone(corpus: Any) -> None:
    for name, value in corpus():
        found = find_secrets(value)
        assert not found, (name, found)


def test_that_corpus_is_large_enough_to_mean_something() -> None:
    assert sum(1 for corpus in (of_the_repository, of_golden_runs, of_workflows) for _ in corpus()) >= 700
