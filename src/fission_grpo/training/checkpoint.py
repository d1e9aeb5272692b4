"""The state of a run on disk, whole: a killed run continues from it as if it had never stopped.

checkpoints/step-N/
  checkpoint.json     format and version of the package that wrote it
  model/              what was trained, as an ordinary Hugging Face folder
  progress-R.pkl      of process R: step, tasks explored, fission buffer or pool, counters, what prompt lookup has seen
  ...                 accelerate's own: optimizer, random states
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from safetensors import SafetensorError

from fission_grpo.algorithm.source import FissionSource
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_json, write_text
from fission_grpo.models.folder import load_trained_weights, save_trained_weights
from fission_grpo.policy.local.speculation import PromptLookup
from fission_grpo.run.folder import RunFolder
from fission_grpo.training.task_order import TaskOrder

FORMAT = 3
"""Of what this module writes. 1, without `checkpoint.json`, is version 0.1's: its pickles name modules that moved; 2
does not know how much has been explored."""
PACKAGE = "fission-grpo"

_TOLD = 200
"""Most characters of somebody else's message that are repeated: theirs end in advice that is none here."""
DAMAGE = (
    *(OSError, SafetensorError, RuntimeError),  # files that are not there or cut off; to `torch.load` a broken archive
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError),  # what pickle says that it may raise
    *(KeyError, TypeError, ValueError),  # something was read, and does not fit model, optimizer or progress
)
"""What a checkpoint raises that is cut off, overwritten, or of another model."""


@dataclass(slots=True)
class RunState:
    """Where the run stands: all that a checkpoint holds besides weights, optimizer and random states."""

    source: FissionSource
    lookup: PromptLookup
    order: TaskOrder
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything, for `torch.save`."""
        return {
            "step": self.step,
            "explored": self.order.state_dict(),
            "fission": self.source.state_dict(),
            "guesses": self.lookup.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood."""
        self.step = state["step"]
        self.order.load_state_dict(state["explored"])
        self.source.load_state_dict(state["fission"])
        self.lookup.load_state_dict(state["guesses"])


class Checkpoints:
    """Writes and reads the checkpoints of a run, all its processes together."""

    def __init__(self, run: RunFolder, accelerator: Accelerator, state: RunState) -> None:
        self._run = run
        self._accelerator = accelerator
        self._state = state
        accelerator.register_save_state_pre_hook(_save_trained_weights)
        accelerator.register_load_state_pre_hook(_load_trained_weights)

    def save(self) -> None:
        """Write one: the main process makes the folder, and names it once all have written their part.

        Raises:
            FissionError: the disk refused it, with what is safe so far.
        """
        step = self._state.step
        if self._accelerator.is_main_process:
            self._run.write_checkpoint(step, self._write)
            return
        unfinished = self._run.unfinished(step)
        with self._run.refusal_of(unfinished):
            self._write(unfinished)

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ConfigError: it is of another format, or damaged; or it was written by another number of processes: each has
                tasks and a fission buffer of its own.
            DataError: a line of metrics or traces is damaged.
        """
        remedy = self._way_around(checkpoint)
        _require_format(checkpoint, remedy)
        written, processes = len(list(checkpoint.glob("progress-*.pkl"))), self._accelerator.num_processes
        if written not in (0, processes):
            raise ConfigError(
                f"{checkpoint} was written by {written} process(es), and this run has {processes}: "
                f"resume with --num_processes {written}, or choose another --output"
            )
        try:
            self._accelerator.load_state(str(checkpoint))
            # Our own pickle; the buffer holds more than tensors.
            self._state.load_state_dict(torch.load(self._progress_file(checkpoint), weights_only=False))
        except (torch.OutOfMemoryError, torch.AcceleratorError, PermissionError):  # say nothing about its content
            raise
        except DAMAGE as error:
            told = shorten(f"{type(error).__name__}: {error}", _TOLD).rstrip(":")
            raise ConfigError(f"{checkpoint} cannot be read: {told}; {remedy}") from error
        if self._accelerator.is_main_process:
            self._run.truncate_after(self._state.step)
        self._accelerator.wait_for_everyone()

    def _way_around(self, checkpoint: Path) -> str:
        """What to do if it cannot be read."""
        others = [other for other in self._run.complete_checkpoints() if other != checkpoint]
        instead = f"continue from {others[-1]}" if others else "start from the beginning"
        return f"move {checkpoint} aside to {instead}, or choose another --output"

    def _write(self, path: Path) -> None:
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(path))
        torch.save(self._state.state_dict(), self._progress_file(path))
        if self._accelerator.is_main_process:
            write_text(path / "checkpoint.json", json.dumps({"format": FORMAT, PACKAGE: version(PACKAGE)}) + "\n")
        self._accelerator.wait_for_everyone()

    def _progress_file(self, checkpoint: Path) -> Path:
        """Every process has a fission buffer of its own."""
        return checkpoint / f"progress-{self._accelerator.process_index}.pkl"


def _require_format(checkpoint: Path, remedy: str) -> None:
    """Refuse what another version wrote, before any of its pickles is opened."""
    label = checkpoint / "checkpoint.json"
    unlabelled = {"format": 1, PACKAGE: "0.1.0"}
    found = read_json(label, "format", PACKAGE, remedy=remedy) if label.exists() else unlabelled
    if found["format"] != FORMAT:
        raise ConfigError(
            f"{checkpoint} was written by {PACKAGE} {found[PACKAGE]} (checkpoint format {found['format']}), and this "
            f"version, {version(PACKAGE)}, reads format {FORMAT}: finish the run with {PACKAGE}=={found[PACKAGE]}, or "
            "start it anew with another --output (its metrics, traces and policy can still be read)"
        )


def _save_trained_weights(models: list[Any], weights: list[Any], output: str) -> None:
    """accelerate's pre-save hook: an ordinary Hugging Face folder; of a LoRA policy the adapter alone."""
    for model in models:
        save_trained_weights(model, Path(output) / "model", is_main_process=PartialState().is_main_process)
        weights.pop()


def _load_trained_weights(models: list[Any], input_dir: str) -> None:
    while models:
        load_trained_weights(models.pop(), Path(input_dir) / "model")
