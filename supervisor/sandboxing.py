"""How a supervisor's workers are confined: what the user, the project and the caller say, put together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from sage_actors.actors.confinement.plan import Confinement
from sage_actors.actors.confinement.policy import SandboxPolicy
from sage_actors.actors.confinement.settings import Mode, SandboxSettings
from sage_actors.actors.egress.doorman import Proxy
from sage_actors.actors.user_config import UserConfig
from sage_actors.messages.errors import UsageError
from sage_actors.sandbox.profile import is_beneath

__all__ = [
    "MODE_VARIABLE",
    "chosen_mode",
    "make_confinement",
    "paths_named_by",
    "unwritable_paths",
    "with_inputs",
]

MODE_VARIABLE = "SAGE_SANDBOX"
_DEFAULT = "enforce"
_INPUT = re.compile(r"\$\{\s*inputs\.([A-Za-z0-9_-]+)\s*\}")
_MODES = ("enforce", "degrade", "off")


def make_confinement(
    project: Path,
    of_project: SandboxSettings,
    *,
    user: UserConfig,
    environ: Mapping[str, str],
    mode: str | None = None,
    reads: Iterable[str] = (),
    main_path: str | None = None,
    make_proxy: Callable[[], Proxy] | None = None,
) -> Confinement:
    """The confinement of one supervisor.

    Args:
        user: the user's own settings.
        of_project: what `.sage/config.toml` says; what widens counts only with the user's consent.
        mode: what the caller says; else $SAGE_SANDBOX, the user's config.toml, and at last "enforce".
        reads: paths outside of the project that operations may read.

    Raises:
        SandboxUnavailable: operations are to be confined, and this machine cannot.
        UsageError, DefinitionError: something that was said is wrong.
    """
    chosen = chosen_mode(user, environ, mode)
    settings = user.sandbox.joined(_consented(project, of_project))
    policy = SandboxPolicy(
        settings,
        project=project,
        environ=environ,
        user=user,
        reads=[each for each in reads if os.path.exists(each)],
        main_path=main_path,
    )
    return Confinement(policy, mode=chosen, project=project, make_proxy=make_proxy)


def chosen_mode(user: UserConfig, environ: Mapping[str, str], mode: str | None = None) -> Mode:
    """What the caller says, else $SAGE_SANDBOX, else the user's config.toml.

    Raises:
        UsageError: it is no mode.
    """
    chosen = mode or environ.get(MODE_VARIABLE) or user.sandbox.mode or _DEFAULT
    if chosen not in _MODES:
        raise UsageError(f"the sandbox's mode is one of {', '.join(_MODES)}, not {chosen!r}")
    return cast("Mode", chosen)


def with_inputs(url: Any, inputs: Mapping[str, Any]) -> Any:
    """The URL of an `http` operation with the inputs in place that it names: whoever gives an address grants it."""

    def value(match: re.Match[str]) -> str:
        given = inputs.get(match[1])
        return str(given) if isinstance(given, (str, int)) and "${" not in str(given) else match[0]

    return _INPUT.sub(value, url) if isinstance(url, str) else url


def _outside(values: Iterable[Any], project: Path) -> Iterator[tuple[str, str]]:
    """(text, real path) of each text that could be a path, and leads out of the project."""
    root = os.path.realpath(project)
    for text in values:
        if isinstance(text, str) and 0 < len(text) < 4096 and "\0" not in text:
            path = os.path.realpath(os.path.join(root, os.path.expanduser(text)))
            if not is_beneath(path, root):
                yield text, path


def unwritable_paths(inputs: Mapping[str, Any], project: Path) -> list[str]:
    """What inputs name outside of the project and does not exist: perhaps to be written, which no operation may."""
    return [
        path
        for text, path in _outside(inputs.values(), project)
        if text.startswith(("/", "~/", "../")) and "\n" not in text
        if not os.path.exists(path) and os.path.isdir(os.path.dirname(path))
    ]


def paths_named_by(inputs: Mapping[str, Any], project: Path) -> list[str]:
    """What inputs name outside of the project, as far as it exists: who names a path may have it read."""
    root = os.path.realpath(project)
    values = [each for value in inputs.values() for each in (value if isinstance(value, list) else [value])]
    return [
        path for _, path in _outside(values, project) if os.path.exists(path) and not is_beneath(root, path)
    ]


def _consented(project: Path, said: SandboxSettings) -> SandboxSettings:
    """What narrows, and what widens if the user consented to it."""
    if not said.widens:
        return said
    from sage_actors.actors.trust.consents import TrustStore, sandbox_item

    if TrustStore().trusts(project, sandbox_item(said.widening())):
        return said
    return SandboxSettings(hide=said.hide)
