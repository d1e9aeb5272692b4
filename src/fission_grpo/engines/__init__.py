"""Fission inside the engines of others. Each is an extra of its own, and nothing below imports one."""

from __future__ import annotations

from enum import StrEnum


class Engine(StrEnum):
    """Who makes the updates."""

    OWN = "own"
    """`training`, on one machine or data parallel."""
    TRL = "trl"
    """TRL's `GRPOTrainer`; needs the extra `trl`."""
    VERL = "verl"
    """verl's synchronous PPO trainer, on Ray; needs the extra `verl`."""
