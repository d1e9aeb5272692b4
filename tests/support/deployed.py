"""The files of `deploy/` that start runs inside verl: what they run, seen by running them without a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SKYPILOT, SLURM, KUBERAY = DEPLOY / "skypilot/verl.yaml", DEPLOY / "slurm/verl.sbatch", DEPLOY / "kuberay/verl.yaml"
RECORD = """#!/bin/sh
{ basename "$0"; printf '%s\\n' "$@"; echo; } >>"$CALLS"
"""
"""Instead of a program of the cluster: what it was called with."""


def loaded(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def stand_ins(folder: Path, **answers: str) -> None:
    """Programs of a cluster that record how they are called, and then do a line of shell."""
    folder.mkdir(exist_ok=True)
    for name, line in answers.items():
        program = folder / name
        program.write_text(f"{RECORD}{line}\n", encoding="utf-8")
        program.chmod(0o755)


def environment(folder: Path, told: Mapping[str, str]) -> dict[str, str]:
    """Of a script that finds the stand-ins first."""
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "CALLS": str(folder / "calls"), **told}


def calls(folder: Path) -> list[list[str]]:
    """What the stand-ins were called with, in order."""
    told = (folder / "calls").read_text(encoding="utf-8")
    return [call.splitlines() for call in told.strip().split("\n\n")]


def skypilot_line(folder: Path) -> list[str]:
    """What SkyPilot runs on the first machine."""
    task = loaded(SKYPILOT)
    stand_ins(folder, ray=":")
    told = {
        **task["envs"],
        "SKYPILOT_NODE_IPS": "10.0.0.1",
        "SKYPILOT_NUM_NODES": "1",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    }
    subprocess.run(["bash", "-c", task["run"]], env=environment(folder, told), check=True)
    return calls(folder)[-1]


def slurm_line(folder: Path) -> list[str]:
    """What Slurm runs on each machine."""
    stand_ins(folder, scontrol="printf 'first\\nsecond\\n'", srun=":")
    told = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    told |= {"MODEL": "/shared/model", "RUN": "/shared/runs/paper"}
    subprocess.run(["bash", str(SLURM)], env=environment(folder, told), check=True)
    return next(call for call in calls(folder) if call[0] == "srun")


def kuberay_line(_folder: Path) -> list[str]:
    """What KubeRay submits."""
    return shlex.split(loaded(KUBERAY)["spec"]["entrypoint"])


LINES = {"skypilot": skypilot_line, "slurm": slurm_line, "kuberay": kuberay_line}


def fission_arguments(line: list[str]) -> list[str]:
    """Behind `fission`."""
    return line[line.index("fission") + 1 :]
