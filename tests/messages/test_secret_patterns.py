"""What looks like a secret, in texts; the corpus that must look like none."""

from __future__ import annotations

import pytest
from secret_samples import KINDS, sample

from sage_actors.messages.secret_patterns import RULES, candidates, hides, spans

pytestmark = pytest.mark.requirement("ORCH-016")
SEEDS = range(20)
CONTEXTS = ("{}", "found {} here", '"{}"', "x={}\n", "({})", "a\n{}\nb")


def found(text: str) -> list[tuple[int, int, str]]:
    return spans(text, candidates(text.encode()))


def test_at_least_thirty_kinds_are_drawn_and_every_rule_is_among_them() -> None:
    assert len(KINDS) >= 30
    assert set(KINDS) >= {rule.name for rule in RULES}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_in_each_context(kind: str) -> None:
    for seed in SEEDS:
        text, secret = sample(kind, seed)
        for context in CONTEXTS:
            said = context.format(text)
            covered = "".join(said[start:end] for start, end, _ in found(said))
            assert secret in covered, (kind, seed, context)


def test_a_token_inside_a_longer_word_is_none() -> None:
    text, _ = sample("github-token", 1)
    assert not found("prefix" + text)


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",  # AWS's documented examples
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "ghp_" + "x" * 36,
        "sk-ant-api03-" + "your-key-" + "a" * 60,
        "Authorization: Bearer ${env.TOKEN}",
        "Authorization: Bearer <your token goes here>",
        "password = ${keyring.db}",
        "password: changeme",
        "api_key = os.environ['SERVICE_API_KEY']",
        "api_key=settings.providers.default_api_key",
        "postgres://user:password@localhost/db",
        "postgres://user:${env.PASSWORD}@localhost/db",
        "postgres://user:{password}@localhost/db",
        "https://[::1]:8080/path@2x.png",
        "scp://host:22/~user@example.com",
        "access_token: Optional[str] = None",
        "the private_key is loaded from /etc/ssl/private/server-2024-01.key",
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    ],
)
def test_examples_and_placeholders_and_code_are_none(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("password", "correct-horse7", True),
        ("db_password", "tr0ub4dor", True),
        ("clientSecret", "9f8e7d6c5b", True),
        ("x-api-key", "k3y-of-mine", True),
        ("AWS_SECRET_ACCESS_KEY", "q9Zr4kW8", True),
        ("token", "q9Zr4kW8t2Lm6Xc1", True),
        ("token", "identifier", False),
        ("next_page_token", "q9Zr4kW8t2Lm6Xc1", False),
        ("max_tokens", "4000", False),
        ("password", "${env.PASSWORD}", False),
        ("password", "<secret>", False),
        ("password", "********", False),
        ("password", "must be at least 8 characters", False),
        ("api_key", "OPENAI_API_KEY", False),
        ("private_key", "/run/keys/deploy", False),
        ("private_key", "certs/server.pem", False),
        ("secret", "string", False),
        ("monkey", "q9Zr4kW8t2Lm6Xc1", False),
        ("secretary", "q9Zr4kW8t2Lm6Xc1", False),
    ],
)
def test_a_name_hides_a_literal_beside_it_and_nothing_else(name: str, value: str, expected: bool) -> None:
    assert hides(name, value) is expected
