"""Chat templates of our own, for models that come without one that knows tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fission_grpo.errors import ConfigError


def template_names() -> tuple[str, ...]:
    """Names that `chat_template` knows, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".jinja") for name in files if name.endswith(".jinja")))


def with_arguments(template: str, arguments: Mapping[str, Any]) -> str:
    """A template that has been told its arguments, whoever renders it: `{enable_thinking: false}` as its first line.

    Raises:
        ConfigError: a name that is none in Jinja, or a value that has no counterpart there.
    """
    for name in arguments:
        if not name.isidentifier():
            raise ConfigError(
                f"chat_template_kwargs: {name!r} is no name of an argument; expected letters, digits and _"
            )
    told = "".join(f"{{% set {name} = {_literal(value)} %}}" for name, value in arguments.items())
    return f"{told}\n{template}" if told else template


def _literal(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case None:
            return "none"
        case int() | float() | str():
            return json.dumps(value)
        case list() | tuple():
            return f"[{', '.join(map(_literal, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
        case _:
            raise ConfigError(f"chat_template_kwargs: {value!r} cannot be told to a template; expected what JSON has")


def chat_template(name_or_path: str) -> str:
    """Source of a template that ships (`hermes`, `nano`) or of a user's file; set it as `tokenizer.chat_template`.

    Raises:
        ConfigError: neither a name we know nor a readable file.
    """
    if name_or_path in template_names():
        return (resources.files(__name__) / f"{name_or_path}.jinja").read_text(encoding="utf-8")
    try:
        return Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(template_names())
        raise ConfigError(
            f"chat template {name_or_path!r}: not one of {known}, and no readable file ({error}). "
            "Give one of these names or the path of a Jinja file."
        ) from error
