"""The tree's engine for a CPU, behind `cpu_platform`: what it is registered for otherwise is a GPU of NVIDIA's."""

from __future__ import annotations

from verl.workers.engine.base import EngineRegistry

from fission_grpo.engines.verl.tree_engine import BACKEND, PrefixTreeEngine

EngineRegistry.register("language_model", BACKEND, device="cpu", vendor="cpu")(PrefixTreeEngine)
