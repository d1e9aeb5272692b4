"""A user's own worlds, named in the settings and imported from the user's code.

    environments:
      library: "shop.worlds:Library"     # a class whose public methods are tools, or anything that makes an Environment
      arithmetic: "shop.tools:TOOLS"     # a list of functions

Modules are looked for where Python finds them, and in the current folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from fission_grpo.environments.base import Environment
from fission_grpo.environments.functions.environment import FunctionEnvironment
from fission_grpo.errors import ConfigError, EnvironmentFault, boundary

FORM = "package.module:name"
"""How the place of a world is written."""

_VERBS = ("reset", "execute", "snapshot", "restore", "score")
"""A class that has these is an `Environment` itself; any other class is a set of tools."""


def imported_environments(places: Mapping[str, str]) -> dict[str, Callable[[], Environment]]:
    """Environment factories by name.

    Args:
        places: name of the world, as tasks give it -> where it is defined, as `FORM` says.

    Raises:
        ConfigError: a module cannot be imported, lacks the name, or what it holds can be no world.
    """
    return {
        name: _factory(f"environments.{name}", name, place, imported(f"environments.{name}", place))
        for name, place in places.items()
    }


def environments_of(kinds: Mapping[str, Any]) -> dict[str, Callable[[], Environment]]:
    """Environment factories by name, of what a program holds in its hands.

    Args:
        kinds: name of the environment, as tasks give it -> a class of tools, a list of functions, or anything
            that makes an `Environment`.

    Raises:
        ConfigError: one of them can be no environment.
    """
    return {
        name: _factory(f"environments[{name!r}]", name, getattr(kind, "__qualname__", repr(kind)), kind)
        for name, kind in kinds.items()
    }


def _factory(setting: str, name: str, place: str, found: Any) -> Callable[[], Environment]:
    if isinstance(found, type):
        return found if all(hasattr(found, verb) for verb in _VERBS) else _tools_of(setting, name, place, found)
    if isinstance(found, list | tuple):
        return _tools_of(setting, name, place, found)
    return _made_by(setting, place, found)


def _tools_of(setting: str, name: str, place: str, found: type[Any] | Sequence[Any]) -> Callable[[], Environment]:
    """Environments of a class of tools, or of functions, once one could be made."""
    if not found:
        raise ConfigError(f"{setting}: {place} is empty; expected at least one function")
    if isinstance(found, type):
        make = partial(FunctionEnvironment.from_class, found, name=name)
    elif all(isinstance(one, FunctionType) for one in found):
        make = partial(FunctionEnvironment.from_functions, found, name=name)
    else:
        raise ConfigError(f"{setting}: {place} is a list of other things than functions; expected functions only")
    try:
        make()
    except ConfigError as error:
        raise ConfigError(f"{setting}: {place}: {error}") from error
    return make


def _made_by(setting: str, place: str, factory: Any) -> Callable[[], Environment]:
    """A function that makes environments, once it has shown that it does."""
    if not callable(factory):
        raise ConfigError(
            f"{setting}: {place} is {type(factory).__name__}; expected a class or a function, or a list of functions"
        )
    made = _guarded(setting, f"{place}()", factory)
    if lacking := [verb for verb in _VERBS if not hasattr(made, verb)]:
        raise ConfigError(
            f"{setting}: {place}() made {type(made).__name__} without {', '.join(lacking)}; "
            "expected an Environment, for instance FunctionEnvironment.from_class(YourClass, name=...)"
        )
    return factory  # type: ignore[no-any-return]  # it was just seen to make environments


def imported(setting: str, place: str) -> Any:
    """What stands at a place of the user's code.

    Args:
        setting: that names the place, for messages.
        place: as `FORM` says.

    Raises:
        ConfigError: it cannot be imported.
    """
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{setting}: got {place!r}, expected {FORM!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a user's file never takes the place of an installed package
    found = _guarded(setting, f"import {module}", lambda: import_module(module))
    if not hasattr(found, attribute):
        raise ConfigError(f"{setting}: {module} ({found.__file__}) has no {attribute!r}")
    return getattr(found, attribute)


def _guarded(setting: str, what: str, job: Callable[[], Any]) -> Any:
    """Whatever the user's code raises here is for the user to mend, before anything is spent."""
    try:
        with boundary(EnvironmentFault, what):
            return job()
    except EnvironmentFault as fault:
        raise ConfigError(f"{setting}: {fault}; correct it there, or the setting") from fault
    except SystemExit as end:
        raise ConfigError(
            f"{setting}: {what} ends the program (sys.exit({end.code!r})); guard that with `if __name__ == '__main__'`"
        ) from end
