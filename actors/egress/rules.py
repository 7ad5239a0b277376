"""Which hosts an operation may reach: rules of an allow-list, and what they match. Pure, without I/O.

    "api.example.com:443"                                    one host and port
    "*.example.com:443"                                      every name below, at any depth; not example.com itself
    "[2001:db8::1]:8443"                                     an address: only a rule that names it matches it
    {host = "llm.lan", port = 8080, private = true}          ... which may resolve to an address of this network

An empty list means none. Names are compared in lower case, as IDNA, without a trailing dot. An address is
"public" if it is globally routable unicast, whatever form it hides in (mapped, NAT64, 6to4, Teredo).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from sage_actors.messages.errors import Problem

__all__ = [
    "Rule",
    "address_problem",
    "canonical_host",
    "covers",
    "find_rule",
    "hint_for",
    "implicit_rules",
    "is_address",
    "is_local",
    "is_public",
    "join_authority",
    "operation_rules",
    "parse_rules",
    "split_authority",
]

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
# The last label decides whether a URL parser takes a host for an IPv4 address (WHATWG URL, "ends in a number")
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_EXAMPLE = '"api.example.com:443", "*.example.com:443" or {host = "10.0.0.8", port = 8080, private = true}'
_SCHEMES = {"https": 443, "http": 80}
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")  # all that is allocated for it (RFC 4291, 2.4)
# Not of one host of the internet, which Python's own table says of some versions only (RFC 6890, 7526, 9637).
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
# Where Amazon, Google, Alibaba, Oracle, Azure hand out credentials to whoever asks, besides link-local addresses.
_CREDENTIALS = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry. host: canonical; of a wildcard, the domain under which every name matches.

    private: the host may resolve to loopback and private addresses, and be asked without TLS there.
    """

    host: str
    port: int
    private: bool = False
    wildcard: bool = False

    def matches(self, host: str, port: int) -> bool:
        """Whether this canonical host and port are meant."""
        if port != self.port:
            return False
        return host.endswith("." + self.host) if self.wildcard else host == self.host

    def to_dict(self) -> dict[str, Any]:
        """A map that `parse_rules` reads."""
        host = f"*.{self.host}" if self.wildcard else self.host
        return {"host": host, "port": self.port, "private": self.private}

    def __str__(self) -> str:
        return ("*." if self.wildcard else "") + join_authority(self.host, self.port)


def parse_rules(said: Any, place: str, problems: list[Problem]) -> tuple[Rule, ...]:
    """The rules that a configuration says. What is wrong is added to `problems`, and grants nothing.

    >>> problems = []
    >>> [str(rule) for rule in parse_rules(["API.example.com.:443", "[::1]:80"], "network", problems)]
    ['api.example.com:443', '[::1]:80']
    >>> parse_rules([], "network", problems), problems
    ((), [])
    """
    if not isinstance(said, (list, tuple)):
        problems.append(Problem(place, "must be a list of hosts", _EXAMPLE))
        return ()
    rules = []
    for index, each in enumerate(said):
        try:
            rules.append(_parse(each))
        except ValueError as wrong:
            problems.append(Problem(f"{place}[{index}]", str(wrong), _EXAMPLE))
    return tuple(rules)


def _parse(said: Any) -> Rule:
    if isinstance(said, str):
        return _rule(*split_authority(said, allow_wildcard=True), False)
    if not isinstance(said, Mapping):
        raise ValueError("must be a text or a table")
    if unknown := said.keys() - {"host", "port", "private"}:
        raise ValueError(f"unknown: {', '.join(sorted(map(str, unknown)))}")
    host, port, private = said.get("host"), said.get("port", 443), said.get("private", False)
    if not isinstance(host, str):
        raise ValueError("host must be a text")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError("port must be a number from 1 to 65535")
    if not isinstance(private, bool):
        raise ValueError("private must be true or false")
    return _rule(host, port, private)


def _rule(host: str, port: int, private: bool) -> Rule:
    if not host.startswith("*"):
        return Rule(canonical_host(host), port, private)
    domain = canonical_host(host.removeprefix("*."))
    if not host.startswith("*.") or "." not in domain or _address(domain) is not None:
        raise ValueError(f"{host!r} is too wide: a wildcard is `*.` and a domain of two labels or more")
    return Rule(domain, port, private, wildcard=True)


def split_authority(
    text: str, *, default_port: int | None = None, allow_wildcard: bool = False
) -> tuple[str, int]:
    """(canonical host, port) of "host:port" or "[address]:port". With a wildcard allowed, its host as it is said.

    Raises:
        ValueError: anything else, user names, and forms that programs read in different ways.
    """
    host, colon, digits = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, digits = text, "" if default_port is None else str(default_port)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        raise ValueError(f"{text[:300]!r} is not a host and a port from 1 to 65535")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text[:300]!r}: an IPv6 address stands in brackets")
    return (host if allow_wildcard and host.startswith("*") else canonical_host(host)), int(digits)


def join_authority(host: str, port: int) -> str:
    """ "host:port", with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def canonical_host(text: str) -> str:
    """The one form of a name or an address.

    Raises:
        ValueError: it is neither, or an address in a form that not every program reads alike (`0x7f.1`, `127.1`).

    >>> canonical_host("BÜCHER.example."), canonical_host("[::0001]")
    ('xn--bcher-kva.example', '::1')
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "%" not in bare and (found := _address(bare)) is not None:
        return str(found)
    name = _ascii(text).removesuffix(".")
    if found := _address(name):
        return str(found)
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text[:300]!r} is not a host name")
    if _NUMERIC_END.fullmatch(name):
        raise ValueError(f"{text[:300]!r}: write an IPv4 address as four decimal numbers")
    return name


def _ascii(name: str) -> str:
    if name.isascii():
        return name.lower()
    import idna  # a table of 200 KB: only for names that need it

    try:
        return idna.encode(name, uts46=True).decode("ascii").lower()
    except idna.IDNAError as cause:
        raise ValueError(f"{name[:300]!r} is not a host name: {cause}") from cause


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def find_rule(rules: Iterable[Rule], host: str, port: int) -> Rule | None:
    """The rule for a canonical host; of several, one that allows private addresses."""
    found = [rule for rule in rules if rule.matches(host, port)]
    return max(found, key=lambda rule: rule.private) if found else None


def covers(rules: Iterable[Rule], wanted: Rule) -> bool:
    """Whether one of `rules` grants all that `wanted` does: what narrows a policy must be covered by it."""
    return any(_covers(rule, wanted) for rule in rules)


def _covers(rule: Rule, wanted: Rule) -> bool:
    if wanted.private and not rule.private:
        return False
    if not wanted.wildcard:
        return rule.matches(wanted.host, wanted.port)
    below = wanted.host == rule.host or wanted.host.endswith("." + rule.host)
    return rule.wildcard and below and rule.port == wanted.port


def hint_for(host: str, port: int, *, private: bool = False) -> str:
    """What to write to grant it.

    >>> hint_for("api.example.com", 443)
    'add network=["api.example.com:443"]'
    """
    if private:
        return f'add network=[{{host = "{host}", port = {port}, private = true}}]'
    return f'add network=["{join_authority(host, port)}"]'


def address_problem(rule: Rule, address: str) -> str | None:
    """Why a connection to `address` is refused under `rule`, or None.

    A rule with `private` opens loopback, private and carrier-grade ranges. Where clouds keep credentials (link-local
    addresses such as 169.254.169.254, and some others), it takes a rule that names the very address.
    """
    found = _address(address)
    if found is None:
        return f"{address[:100]!r} is not an address"
    if is_public(found):
        return None
    if any(
        each.is_unspecified or each.is_multicast or str(each) == "255.255.255.255" for each in _forms(found)
    ):
        return f"{address} is no address of one host"
    if not rule.private:
        return f"{address} is not a public address"
    if _keeps_credentials(found) and rule.host != str(found):
        return f"{address} is where clouds keep credentials (or link-local), and the rule does not name it"
    return None


def is_address(text: str) -> bool:
    """Whether a host is an address, not a name."""
    return _address(text) is not None


def is_local(address: str) -> bool:
    """Whether this address, as text, is anything but a public one."""
    found = _address(address)
    return found is None or not is_public(found)


@lru_cache(1024)
def is_public(address: Address) -> bool:
    """Whether it is globally routable unicast, with every IPv4 address inside of it."""
    return all(_is_global(each) for each in _forms(address))


def _is_global(address: Address) -> bool:
    if address in _CREDENTIALS or any(address in each for each in _SPECIAL):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return True  # decided by the IPv4 address inside
        return address in _GLOBAL_IPV6 and address.is_global
    return address.is_global and not address.is_multicast


def _keeps_credentials(address: Address) -> bool:
    return any(each.is_link_local or each in _CREDENTIALS for each in _forms(address))


def _forms(address: Address) -> list[Address]:
    """The address, and the IPv4 addresses that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    mapped = address.ipv4_mapped is not None  # then the form itself is no address of the network
    return [*([] if mapped else [address]), *(each for each in inner if each is not None)]


def implicit_rules(url: str) -> list[Rule]:
    """What the URL of an `http` operation grants to it: exactly its host and port; [] unless they are literal.

    It may be on this network only where the host is an address or `localhost`, and never where clouds keep
    credentials: a name could be made to lead anywhere, and the author of a workflow need not be its user.

    >>> [str(rule) for rule in implicit_rules("https://api.example.com/v1/${item.id}")]
    ['api.example.com:443']
    >>> implicit_rules("https://${input.host}/v1")
    []
    """
    literal, reference, _ = url.partition("${")
    scheme, colon, rest = literal.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not colon or "\\" in authority or (reference and len(authority) == len(rest)):
        return []  # a reference could still lengthen the host
    default_port = _SCHEMES.get(scheme.lower())
    try:
        host, port = split_authority(authority.rpartition("@")[2], default_port=default_port)
    except ValueError:
        return []
    return [] if default_port is None else [Rule(host, port, private=_is_here(host))]


def _is_here(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost"
    return not _keeps_credentials(address)


def operation_rules(type_name: str, config: Mapping[str, Any], policy: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules of one operation: the policy's, and of an `http` operation what its own URL grants."""
    url = config.get("url") if type_name == "http" else None
    own = implicit_rules(url) if isinstance(url, str) else []
    return (*policy, *own)
