"""What every group of settings has in common: frozen, keyword-only, and an unknown key is an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings. Each subclass stands beside the component it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
