"""What every group of settings has in common: frozen, keyword-only, and an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

FORMER_NAMES: Mapping[str, str] = MappingProxyType({"worlds": "environments"})
"""What a section of the settings of a run was called up to version 0.1 -> what it is called now. Both are read."""


class Settings(BaseModel):
    """Base of all settings. Each subclass stands beside the component it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
