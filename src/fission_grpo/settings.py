"""What every group of settings has in common: frozen, keyword-only, finite; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

FORMER_NAMES: Mapping[str, str] = MappingProxyType(
    {"worlds": "environments", "synthetic.moments": "synthetic.decision_positions"}
)
"""Dotted name that a setting of a run had before -> the one that it has now, in the same section. Both are read."""


def current_key(key: Sequence[str]) -> tuple[str, ...]:
    """The path of a setting by today's names: `("worlds", "shop")` -> `("environments", "shop")`."""
    for length in range(1, len(key) + 1):
        if now := FORMER_NAMES.get(".".join(key[:length])):
            return (*now.split("."), *key[length:])
    return tuple(key)


def with_current_names(value: Any, above: Sequence[str] = ()) -> Any:
    """Settings as nested values, or those of the section at `above`, by today's names."""
    if not isinstance(value, Mapping):
        return value
    places = {name: current_key((*above, str(name))) for name in value}
    return {
        name if place == (*above, str(name)) else place[-1]: with_current_names(value[name], place)
        for name, place in places.items()
    }


def same_value(saved: Any, asked: Any) -> bool:
    """Whether a saved value of a setting means what is asked for now: a relative path of earlier versions, typed in the
    same working directory, is the whole path of today."""
    if saved == asked:
        return True
    paths = isinstance(saved, str) and isinstance(asked, str) and Path(asked).is_absolute()
    return paths and Path(saved).expanduser().resolve() == Path(asked)


MOST_SEED = 2**32 - 1
"""Largest seed of a run, as numpy has it; the smallest is 0."""


class Settings(BaseModel):
    """Base of all settings. Each subclass stands beside the component it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
