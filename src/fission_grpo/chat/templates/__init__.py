"""Chat templates of our own, for models that come without one that knows tools."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fission_grpo.errors import ConfigError


def template_names() -> tuple[str, ...]:
    """Names that `chat_template` knows, sorted."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".jinja") for name in files if name.endswith(".jinja")))


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
