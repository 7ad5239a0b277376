"""A confined process gets the variables that programs need, and none that holds a key."""

from __future__ import annotations

import pytest

from sage_actors.sandbox.environment import clean_environment

pytestmark = pytest.mark.requirement("ORCH-023")

SECRETS = (
    *("SAGE_STATE_KEY", "SAGE_STATE_KEY_OLD", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY"),
    *(
        "SSH_AUTH_SOCK",
        "DBUS_SESSION_BUS_ADDRESS",
        "PYTHONPATH",
        "LD_PRELOAD",
        "NODE_OPTIONS",
        "PYTHONSTARTUP",
    ),
)


def test_only_what_is_listed_is_passed_on() -> None:
    environ = {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "TZ": "UTC", **dict.fromkeys(SECRETS, "secret")}
    found = clean_environment(environ, extra=(), tmp="/t", proxy_url=None)
    assert "secret" not in found.values()
    assert {name: found[name] for name in ("PATH", "HOME", "LC_ALL", "TZ")} == {
        "PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "TZ": "UTC"
    }  # fmt: skip
    assert found["TMPDIR"] == found["TMP"] == found["TEMP"] == "/t"


def test_more_can_be_named_and_by_patterns() -> None:
    environ = {"MY_TOKEN": "1", "AWS_REGION": "eu", "OTHER": "x"}
    found = clean_environment(environ, extra=("MY_TOKEN", "AWS_*"), tmp="/t", proxy_url=None)
    assert (found["MY_TOKEN"], found["AWS_REGION"], "OTHER" in found) == ("1", "eu", False)


@pytest.mark.parametrize(
    "name", ["SAGE_STATE_KEY", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONHOME", "HTTPS_PROXY"]
)
def test_some_are_never_passed_on_even_when_they_are_named(name: str) -> None:
    assert name not in clean_environment({name: "x"}, extra=(name, "*"), tmp="/t", proxy_url=None)


def test_the_proxy_is_ours_or_none() -> None:
    environ = {"HTTPS_PROXY": "http://corporate", "no_proxy": "*", "ALL_PROXY": "socks5://x"}
    without = clean_environment(environ, extra=(), tmp="/t", proxy_url=None)
    assert not [name for name in without if name.lower().endswith("_proxy")]
    url = "http://sage:token@127.0.0.1:3128"
    found = clean_environment(environ, extra=(), tmp="/t", proxy_url=url)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        assert found[name] == url
    assert "no_proxy" not in found
    local = clean_environment(environ, extra=(), tmp="/t", proxy_url=url, no_proxy=True)
    assert local["NO_PROXY"] == local["no_proxy"] == "localhost,127.0.0.1,::1"


def test_programs_can_be_found_without_any_path() -> None:
    assert clean_environment({}, extra=(), tmp="/t", proxy_url=None)["PATH"].startswith("/usr/local/bin")
