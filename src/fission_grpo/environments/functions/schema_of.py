"""Python functions as OpenAI tools: which of an object's methods are tools, and their schemas."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, update_wrapper
from types import FunctionType
from typing import Any

from fission_grpo.errors import ConfigError
from fission_grpo.types import Tool

SCORE_HOOKS = ("score", "get_reward")
HOOKS = ("reset", *SCORE_HOOKS)
"""Public methods that are no tools; `get_reward` is TRL's name."""


class Functions:
    """Plain functions in the shape of a world without state."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Take the functions under their own names.

        Raises:
            ConfigError: two of one name, or one without a JSON Schema.
        """
        self.by_name = {function.__name__: function for function in functions}
        if len(self.by_name) < len(functions):
            raise ConfigError(f"two functions share a name: {', '.join(f.__name__ for f in functions)}")
        for function in functions:
            document(function)

    def reset(self) -> None:
        """Nothing to forget."""


class Together:
    """Several objects as one world: each has its own part of the config, and their tools lie side by side."""

    def __init__(self, kinds: Mapping[str, type[Any]]) -> None:
        self._kinds = kinds
        self.objects: dict[str, Any] = {}
        """Those that are alive, by the name of their class."""

    def reset(self, classes: Sequence[str], initial: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring those classes to life.

        Args:
            classes: names of some of them.
            initial: what `reset` of each takes.
        Raises:
            ConfigError: there is no such class.
        """
        if unknown := [name for name in [*classes, *initial] if name not in self._kinds]:
            raise ConfigError(f"there is no class {', '.join(unknown)}; expected some of {', '.join(self._kinds)}")
        self.objects = {name: self._kinds[name]() for name in classes}
        for name, subject in self.objects.items():
            subject.reset(**initial.get(name, {}))


def classes_by_name(kinds: Sequence[type[Any]]) -> Mapping[str, type[Any]]:
    """Classes that can live in one world.

    Raises:
        ConfigError: two share a tool or their name; or see `toolbox`.
    """
    names = Counter(kind.__name__ for kind in kinds)
    names.update(str(tool["function"]["name"]) for kind in kinds for tool in toolbox(kind))
    if shared := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"two classes or tools of one world are called {', '.join(shared)}; rename one of each")
    return {kind.__name__: kind for kind in kinds}


def tool_methods(subject: Any) -> Mapping[str, Callable[..., Any]]:
    """The tools of a world by name, ready to be called."""
    if isinstance(subject, Functions):
        return subject.by_name
    if isinstance(subject, Together):
        return {name: tool for part in subject.objects.values() for name, tool in tool_methods(part).items()}
    return {name: getattr(subject, name) for name in _public(type(subject))}


def score_hook(subject: Any) -> Callable[[], Any] | None:
    """The method by which a world judges itself, if it has one."""
    return next((getattr(subject, name) for name in SCORE_HOOKS if hasattr(subject, name)), None)


def toolbox(kind: type[Any], subject: Any = None) -> tuple[Tool, ...]:
    """The tools of a class (or of `Functions`, or of what `Together` holds), in order of definition.

    Raises:
        ConfigError: no `reset`, or a method without a JSON Schema.
    """
    if isinstance(subject, Functions):
        return tuple(document(function) for function in subject.by_name.values())
    if isinstance(subject, Together):
        return tuple(tool for part in subject.objects.values() for tool in toolbox(type(part), part))
    if not callable(getattr(kind, "reset", None)):
        raise ConfigError(f"{kind.__name__} has no method reset(): a world needs one, if only to do nothing")
    return tuple(document(function, bound=bound) for function, bound in _public(kind).values())


@cache
def document(function: Callable[..., Any], *, bound: bool = False) -> Tool:
    """The OpenAI tool of a function, from its type hints and its Google-style docstring.

    Args:
        bound: whether the first parameter (`self`) is the world's and not the model's.

    Raises:
        ConfigError: a hint or a description is missing or has no JSON Schema, or the function is asynchronous.
    """
    # Imported here: transformers takes a second, and the command line must answer at once.
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"tool {function.__name__} is asynchronous; expected a plain function")
    try:
        found = get_json_schema(_without_self(function) if bound else function)["function"]
    except (DocstringParsingException, TypeHintParsingException) as error:
        raise ConfigError(f"tool {function.__name__} has no JSON Schema: {error}") from error
    parameters = _standard(found["parameters"])
    return {
        "type": "function",
        "function": {"name": found["name"], "description": found["description"], "parameters": parameters},
    }


def _without_self(function: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in that looks like the bound method: a bound method itself would still show the hint of `self`."""
    signature = inspect.signature(function)
    own, *rest = signature.parameters.values()

    def stand_in() -> None: ...

    update_wrapper(stand_in, function, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    stand_in.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if name != own.name}
    stand_in.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    return stand_in


def _public(kind: type[Any]) -> Mapping[str, tuple[Callable[..., Any], bool]]:
    """Public methods of a class with whether they are bound; base classes first, in order of definition."""
    names = dict.fromkeys(name for base in reversed(kind.__mro__) for name in vars(base))
    tools: dict[str, tuple[Callable[..., Any], bool]] = {}
    for name in names:
        if name.startswith("_") or name in HOOKS:
            continue
        found = inspect.getattr_static(kind, name)
        if isinstance(found, classmethod | staticmethod):
            tools[name] = (found.__func__, isinstance(found, classmethod))
        elif isinstance(found, FunctionType):
            tools[name] = (found, True)
    return tools


def _standard(node: Any) -> Any:
    """JSON Schema proper: OpenAPI's `nullable`, which no validator reads, becomes a type."""
    if isinstance(node, list):
        return [_standard(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: _standard(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") is True:
        kinds = schema.get("type", [])
        schema["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return schema
