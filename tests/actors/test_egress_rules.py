"""Rules of the allow-list: how they are said, what they match, and which addresses they open."""

from __future__ import annotations

from typing import Any

import pytest
from egress_harness import PUBLIC, rules
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.actors.egress.rules import (
    Rule,
    address_problem,
    canonical_host,
    covers,
    find_rule,
    hint_for,
    implicit_rules,
    operation_rules,
    parse_rules,
    split_authority,
)
from sage_actors.messages.errors import Problem

pytestmark = pytest.mark.requirement("ORCH-023")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("api.example.com:443", Rule("api.example.com", 443)),
        ("API.Example.COM.:8443", Rule("api.example.com", 8443)),
        ("*.example.com:443", Rule("example.com", 443, wildcard=True)),
        ("bücher.example:443", Rule("xn--bcher-kva.example", 443)),
        ("[::1]:8080", Rule("::1", 8080)),
        ("[2001:DB8:0::1]:443", Rule("2001:db8::1", 443)),
        ("127.0.0.1:80", Rule("127.0.0.1", 80)),
        ({"host": "llm.lan", "port": 8080, "private": True}, Rule("llm.lan", 8080, private=True)),
        ({"host": "*.lan.example"}, Rule("lan.example", 443, wildcard=True)),
    ],
)
def test_a_rule_is_read_in_its_one_form(said: Any, expected: Rule) -> None:
    assert rules(said) == (expected,)
    assert rules(expected.to_dict()) == (expected,)
    if not expected.private:
        assert rules(str(expected)) == (expected,)


@pytest.mark.parametrize(
    "said",
    [
        "", ":", "*", "*:443", "*.com:443", "*.:443", "*.127.0.0.1:443", "**.example.com:443", "a*.example.com:443",
        "example.com", "example.com:", "example.com:0", "example.com:65536", "example.com:-1", "example.com:*",
        "example.com:443x", "example.com:٣", "https://example.com:443", "example.com:443/path", "u@example.com:443",
        "::1:443", "[::1]", "[::1:443", "[fe80::1%eth0]:443", "[example.com]:443", "ex ample.com:443", "a..b:443",
        "-a.example:443", f"{'a' * 64}.example:443", f"{'a.' * 127}example:443", "2130706433:80", "0x7f.1:80",
        "127.1:80", "0177.0.0.1:80", "1.2.3.4.5:80", "example.0x1:80", "a\x00b.example:443", "a\\b.example:443",
        1, None, True, ["a:1"], {}, {"host": 1}, {"host": "a.example", "port": "443"},
        {"host": "a.example", "port": True}, {"host": "a.example", "port": 0}, {"host": "a.example", "ports": [443]},
        {"host": "a.example", "private": "no"}, {"port": 443},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_problem_and_grants_nothing(said: Any) -> None:
    problems: list[Problem] = []
    found = parse_rules(["good.example:443", said], "sandbox.network", problems)
    assert found == (Rule("good.example", 443),)
    assert [problem.place for problem in problems] == ["sandbox.network[1]"]
    assert "api.example.com:443" in problems[0].hint


@pytest.mark.parametrize("said", [None, "example.com:443", {"host": "a.example"}, 5, True])
def test_a_list_that_is_none_is_a_problem(said: Any) -> None:
    problems: list[Problem] = []
    assert parse_rules(said, "network", problems) == ()
    assert len(problems) == 1


def test_an_empty_list_means_none() -> None:
    problems: list[Problem] = []
    assert parse_rules([], "network", problems) == ()
    assert problems == []
    assert find_rule((), "example.com", 443) is None


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        ("a.example.com", True), ("a.b.example.com", True), ("example.com", False), ("xexample.com", False),
        ("example.com.evil.test", False), ("a.example.co", False), (".example.com", True),
    ],
)  # fmt: skip
def test_a_wildcard_matches_names_below_and_not_the_domain_itself(host: str, matches: bool) -> None:
    assert (find_rule(rules("*.example.com:443"), host, 443) is not None) is matches
    assert find_rule(rules("*.example.com:443"), host, 444) is None


def test_an_address_is_matched_by_a_rule_that_names_it_only() -> None:
    assert find_rule(rules("10.0.0.1:443"), "10.0.0.1", 443)
    assert not find_rule(rules("10.0.0.1:443"), canonical_host("[::ffff:10.0.0.1]"), 443)
    assert not find_rule(rules("*.example.com:443"), "10.0.0.1", 443)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1",
        "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:a00:1::1", "fec0::1",
        "::ffff:169.254.169.254", "192.0.0.8", "192.0.0.192", "192.88.99.1", "3fff::1", "168.63.129.16",
        "::ffff:168.63.129.16", "not an address", "",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert address_problem(Rule("a.example", 443), address) is not None


@pytest.mark.parametrize(
    "address", [PUBLIC, "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2a00:1450::1"]
)
def test_a_public_address_is_not(address: str) -> None:
    assert address_problem(Rule("a.example", 443), address) is None


CREDENTIALS = ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")


@pytest.mark.parametrize("address", CREDENTIALS)
def test_a_workflow_that_spells_out_where_a_cloud_keeps_credentials_is_not_let_there(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    (rule,) = implicit_rules(f"http://{host}/latest/meta-data/")
    assert address_problem(rule, address) is not None


def test_private_opens_this_network_but_not_where_clouds_keep_credentials() -> None:
    private = Rule("llm.lan", 443, private=True)
    for address in ("127.0.0.1", "10.0.0.1", "::1", "fc00::1", "100.64.0.1", "::ffff:10.0.0.1", PUBLIC):
        assert address_problem(private, address) is None, address
    for address in (
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "0.0.0.0",
        "::",
        "ff02::1",
        "255.255.255.255",
        *CREDENTIALS,
    ):
        assert address_problem(private, address) is not None, address
    assert address_problem(Rule("169.254.169.254", 80, private=True), "169.254.169.254") is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example.com/v1", Rule("api.example.com", 443)),
        ("HTTPS://API.example.com:8443", Rule("api.example.com", 8443)),
        ("http://localhost:11434/api", Rule("localhost", 11434, private=True)),
        ("http://127.0.0.1:8000/", Rule("127.0.0.1", 8000, private=True)),
        ("http://[::1]:8000/", Rule("::1", 8000, private=True)),
        ("https://user:pass@api.example.com/", Rule("api.example.com", 443)),
        ("https://api.example.com/${item.path}", Rule("api.example.com", 443)),
        ("https://api.example.com?q=${item}", Rule("api.example.com", 443)),
        ("http://169.254.169.254/latest/meta-data", Rule("169.254.169.254", 80)),
    ],
)
def test_a_literal_url_grants_its_own_host_and_port(url: str, expected: Rule) -> None:
    assert implicit_rules(url) == [expected]


@pytest.mark.parametrize(
    "url",
    [
        "", "api.example.com", "ftp://a.example/", "https://", "https:///x", "${input.url}", "https://${host}/",
        "https://api.example.com${rest}", "https://api.example.com:${port}/", "https://a.example\\@b.example/",
        "https://api.${domain}/", "https://127.1/", "https://a.example:99999/",
    ],
)  # fmt: skip
def test_a_url_whose_host_is_not_literal_grants_nothing(url: str) -> None:
    assert implicit_rules(url) == []


def test_only_an_http_operation_is_granted_its_url() -> None:
    policy = rules("policy.example:443")
    config = {"url": "https://own.example/x"}
    assert [str(each) for each in operation_rules("http", config, policy)] == [
        "policy.example:443", "own.example:443",
    ]  # fmt: skip
    assert operation_rules("shell", config, policy) == policy
    assert operation_rules("http", {"url": 5}, ()) == ()


@pytest.mark.parametrize(
    ("policy", "wanted", "covered"),
    [
        ("a.example:443", "a.example:443", True),
        ("a.example:443", "a.example:80", False),
        ("*.example.com:443", "b.example.com:443", True),
        ("*.example.com:443", "*.b.example.com:443", True),
        ("*.example.com:443", "*.example.com:443", True),
        ("*.b.example.com:443", "*.example.com:443", False),
        ("a.example.com:443", "*.example.com:443", False),
        ("*.example.com:443", "*.xexample.com:443", False),
        ("a.example:443", {"host": "a.example", "private": True}, False),
        ({"host": "a.example", "private": True}, "a.example:443", True),
    ],
)
def test_what_narrows_must_be_covered(policy: Any, wanted: Any, covered: bool) -> None:
    assert covers(rules(policy), rules(wanted)[0]) is covered
    assert not covers((), rules(wanted)[0])


def test_a_hint_can_be_pasted() -> None:
    assert hint_for("a.example", 443) == 'add network=["a.example:443"]'
    assert hint_for("::1", 80) == 'add network=["[::1]:80"]'
    assert "private = true" in hint_for("10.0.0.1", 80, private=True)


@given(st.text(max_size=40))
def test_a_canonical_host_is_its_own_canonical_form(text: str) -> None:
    try:
        host = canonical_host(text)
    except ValueError:
        return
    assert canonical_host(f"[{host}]" if ":" in host else host) == host
    assert host.isascii()
    assert host == host.lower()


@given(st.text(alphabet="a.:[]@/\\%*0123456789x -", max_size=30))
def test_an_authority_is_a_host_and_a_port_or_an_error(text: str) -> None:
    try:
        host, port = split_authority(text)
    except ValueError:
        return
    assert 0 < port < 65536
    assert not set(host) & set("@/\\%* []")
