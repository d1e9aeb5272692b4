"""Fission-GRPO inside TRL: `FissionGRPOTrainer` in place of `GRPOTrainer`."""

from fission_grpo.engines.trl.trainer import FissionGRPOTrainer

__all__ = ["FissionGRPOTrainer"]
