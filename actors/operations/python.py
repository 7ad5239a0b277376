"""Operations of type `python`: a callable named `package.module:qualname`, or `__main__:name`."""

from __future__ import annotations

import importlib
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.definition import policy_in_file
from sage_actors.messages.errors import ResultError, UsageError

__all__ = ["PythonRunner", "inspect_call", "load_call"]


class PythonRunner:
    """Calls the function with the task's arguments, and with a context if it has a parameter of that name."""

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._function = load_call(spec["call"], settings.main_path)
        self._wants_context = accepts_context(self._function)
        self.is_async = is_async(self._function)

    def run(self, task: Task) -> Any:
        arguments = unpack(task.packed)
        if self._wants_context:
            arguments["context"] = task.context()
        try:
            return self._function(**arguments)
        except TypeError as error:
            if not _fits(self._function, arguments):
                error.retryable = False  # type: ignore[attr-defined] # the same call fails the same way
            raise


def load_call(call: str, main_path: str | None = None) -> Callable[..., Any]:
    """The callable that `call` names.

    Raises:
        ImportError: there is none; the text says which part is missing.
    """
    module_name, _, qualname = call.partition(":")
    if not module_name or not qualname:
        raise ImportError(f"{call!r} is no import path; write package.module:name")
    target: Any = _load_module(module_name, main_path)
    for part in qualname.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            hint = "; the run was started by a script: run that again" if module_name == "__main__" else ""
            raise ImportError(f"{call!r}: {module_name} has no {qualname!r}{hint}") from None
    if not callable(target):
        raise ImportError(f"{call!r} is a {type(target).__name__}, which cannot be called")
    found: Callable[..., Any] = target
    return found


def accepts_context(function: Callable[..., Any]) -> bool:
    """Whether it has a parameter named `context` that can be given by name."""
    try:
        parameter = inspect.signature(function).parameters.get("context")
    except (TypeError, ValueError):  # built in, without a signature
        return False
    return parameter is not None and parameter.kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; looks through decorated operations."""
    inner = getattr(function, "function", None)
    candidates = [function, inspect.unwrap(function), inner if callable(inner) else None]
    candidates.append(getattr(function, "__call__", None))  # noqa: B004 - an object with an async __call__
    return any(inspect.iscoroutinefunction(each) for each in candidates if each is not None)


def inspect_call(call: str, main_path: str | None) -> dict[str, Any]:
    """What `call` is: {call, ok, error, is_async, accepts_context, policy, parameters}. Never raises."""
    info: dict[str, Any] = {"call": call, "ok": False, "error": None}
    info |= {"is_async": False, "accepts_context": False, "policy": None, "parameters": None}
    try:
        function = load_call(call, main_path)
        info |= {"is_async": is_async(function), "accepts_context": accepts_context(function)}
        info |= {"parameters": _parameters(function)}
        info |= {"policy": _policy(function), "ok": True}
    except BaseException as error:  # noqa: BLE001 - importing runs user code
        info["error"] = f"{type(error).__name__}: {error}"
    return info


def _policy(function: Callable[..., Any]) -> dict[str, Any] | None:
    policy = getattr(function, "policy", None)
    if not isinstance(policy, dict):
        return None
    policy = {name: each if name == "fallback" else policy_in_file(each) for name, each in policy.items()}
    try:
        pack(policy)
    except ResultError as error:
        raise UsageError(f"its policy cannot be used: {error}") from error
    return policy


def _parameters(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The names of arguments that it `takes` (None: any), and which of them it `needs`.

    None where that cannot be known. Of a decorated function it is what the decorator's own function takes, which
    may add arguments.
    """
    inner = getattr(function, "function", None) if hasattr(function, "policy") else None
    try:
        parameters = inspect.signature(inner or function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = {each.kind for each in parameters}
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        return None  # mostly built in, and what it takes by name is not said
    named = [each for each in parameters if each.kind not in _MANY]
    return {
        "takes": None if inspect.Parameter.VAR_KEYWORD in kinds else [each.name for each in named],
        "needs": [each.name for each in named if each.default is each.empty and each.name != "context"],
    }


_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _fits(function: Callable[..., Any], arguments: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _load_module(name: str, main_path: str | None) -> ModuleType:
    importlib.invalidate_caches()
    try:
        if name in ("__main__", "__mp_main__"):
            return _load_main(main_path)
        return importlib.import_module(name)
    except ImportError:
        raise
    except Exception as cause:
        raise ImportError(f"importing {name} failed: {type(cause).__name__}: {cause}") from cause


def _load_main(main_path: str | None) -> ModuleType:
    """The parent's script as the module `__mp_main__`, the name that multiprocessing gives it too: code
    under `if __name__ == "__main__":` does not run."""
    loaded = sys.modules.get("__mp_main__")
    if loaded is not None and getattr(loaded, "__sage_main__", False):
        return loaded
    if main_path is None:
        raise ImportError("__main__ is no file that a worker could load; put the operation into a module")
    module = ModuleType("__mp_main__")
    module.__dict__["__sage_main__"] = True
    if os.path.isabs(main_path):
        module.__file__ = main_path
        content = runpy.run_path(main_path, run_name="__mp_main__")
    else:
        content = runpy.run_module(main_path, run_name="__mp_main__", alter_sys=True)
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module
