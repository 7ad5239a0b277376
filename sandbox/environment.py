"""The variables that a confined process gets: those that programs need, and none of the user's other ones.

Tokens and keys live in variables, so what is not named is not passed on.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping

__all__ = ["clean_environment"]

_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM", "COLORTERM"),
    *("NO_COLOR", "CI", "SOURCE_DATE_EPOCH"),
    "XDG_CONFIG_HOME",  # beside the key, which stays unseen, are consents and settings that workers look up
    *("VIRTUAL_ENV", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "PYTHONFAULTHANDLER", "PYENV_ROOT", "PYENV_VERSION"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    "NODE_EXTRA_CA_CERTS",
    *("RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "GOROOT", "JAVA_HOME", "NVM_DIR", "NVM_BIN", "VOLTA_HOME"),
    "SAGE_*",
)
_NEVER = (
    "SAGE_STATE_KEY*",
    "SAGE_ACTORS_KEY*",
    "LD_*",
    "DYLD_*",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "*_proxy",
    "*_PROXY",
)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def clean_environment(
    environ: Mapping[str, str],
    *,
    extra: Collection[str],
    tmp: str,
    proxy_url: str | None,
    no_proxy: bool = False,
) -> dict[str, str]:
    """The allow-listed part of `environ`, with `extra` names or patterns (`AWS_*`), and what the sandbox itself sets.

    tmp: the directory for temporary files. proxy_url: None for no network; `no_proxy` leaves the machine's own
    addresses out of the proxy. Keys and what changes how programs are loaded are never passed on.
    """
    allowed = (*_PASSED, *extra)
    kept = {
        name: value
        for name, value in environ.items()
        if _matches(name, allowed) and not _matches(name, _NEVER)
    }
    kept |= {"TMPDIR": tmp, "TMP": tmp, "TEMP": tmp}
    # Landlock answers EACCES where git expects a file to be absent or readable.
    kept |= {"GIT_CONFIG_NOSYSTEM": "1"}
    kept.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    if proxy_url is not None:
        kept |= dict.fromkeys(_PROXIES, proxy_url)
        kept |= {"NODE_USE_ENV_PROXY": "1"}  # node looks at the variables above only if it is told to
        if no_proxy:
            kept |= dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1")
    return kept


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
