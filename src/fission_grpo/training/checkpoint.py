"""The state of a run on disk, whole: a killed run continues from it as if it had never stopped.

checkpoints/step-N/
  checkpoint.json     format and version of the package that wrote it, and how long each file is; written last
  model/              what was trained, as an ordinary Hugging Face folder
  progress-R.pt       of process R: step, tasks explored, fission buffer or pool, counters, what prompt lookup has seen;
                      of a supervised training: step, schedule, which rows
  ...                 accelerate's own: optimizer, random states

A run folder may come from anybody. Nothing in a checkpoint is code: weights are safetensors, everything else is tensors
and plain data, read with `torch.load(weights_only=True)`, by accelerate, too.
"""

from __future__ import annotations

import json
import pickle
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import torch
from accelerate import Accelerator, PartialState
from safetensors import SafetensorError

from fission_grpo.algorithm.source import FissionSource
from fission_grpo.errors import ConfigError
from fission_grpo.files import write_text
from fission_grpo.models.folder import load_trained_weights, save_trained_weights
from fission_grpo.policy.local.speculation import PromptLookup
from fission_grpo.run.folder import RunFolder
from fission_grpo.training.learner import anywhere
from fission_grpo.training.task_order import TaskOrder

FORMAT = 4
"""Of what this module writes. 1, without `checkpoint.json`, is version 0.1's: its pickles name modules that moved; 2
does not know how much has been explored; 3 is made of pickles that may run code."""
PACKAGE = "fission-grpo"

_TOLD = 200
"""Most characters of somebody else's message that are repeated: theirs end in advice that is none here."""
DAMAGE = (
    *(OSError, SafetensorError, RuntimeError),  # files that are not there or cut off; to `torch.load` a broken archive
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError),  # what pickle says that it may raise
    *(KeyError, TypeError, ValueError),  # something was read, and does not fit model, optimizer or progress
)
"""What a checkpoint raises that is cut off, overwritten, or of another model."""


class Resumable(Protocol):
    """Where some training stands: all that a checkpoint holds besides weights, optimizer and random states."""

    step: int
    """Updates made so far."""

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood.

        Raises:
            KeyError, TypeError, ValueError: `state_dict` has not written this.
        """
        ...


@dataclass(slots=True)
class RunState:
    """Where a run of our loop stands."""

    source: FissionSource
    lookup: PromptLookup
    order: TaskOrder
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain data."""
        return {
            "step": self.step,
            "explored": self.order.state_dict(),
            "fission": self.source.state_dict(),
            "guesses": self.lookup.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` stood.

        Raises:
            KeyError, TypeError, ValueError: `state_dict` has not written this.
        """
        self.step = int(state["step"])
        self.order.load_state_dict(state["explored"])
        self.source.load_state_dict(state["fission"])
        self.lookup.load_state_dict(state["guesses"])


class Checkpoints:
    """Writes and reads the checkpoints of a run, all its processes together."""

    def __init__(self, run: RunFolder, accelerator: Accelerator, state: Resumable) -> None:
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

    def resume(self) -> None:
        """Continue from the newest checkpoint that can be read, and from the start if there never was one.

        One that is damaged is moved aside, with a warning, and the one before it is taken.

        Raises:
            ConfigError: one is of another format, or was written by another number of processes: each has tasks and a
                fission buffer of its own; or none of those that are there can be read.
            DataError: a line of metrics or traces is damaged.
        """
        checkpoints = self._run.complete_checkpoints()
        while checkpoints:
            damage = self._load(checkpoints[-1])
            if not anywhere(damage is not None, self._accelerator):
                break
            self._pass_over(checkpoints.pop(), damage or "damaged for another process", before=checkpoints)
        if self._accelerator.is_main_process:
            self._run.truncate_after(self._state.step)
            self._run.compare_metrics(self._state.step)
        self._accelerator.wait_for_everyone()

    def _load(self, checkpoint: Path) -> str | None:
        """Take over what a checkpoint holds; says what is damaged instead, if anything is."""
        try:
            label = _label(checkpoint)
            if (written := label["processes"]) != (processes := self._accelerator.num_processes):
                raise ConfigError(
                    f"{checkpoint} was written by {written} process(es), and this run has {processes}: "
                    f"resume with --num_processes {written}, or choose another --output"
                )
            _require_whole(checkpoint, label["files"])
            self._accelerator.load_state(str(checkpoint))
            self._state.load_state_dict(torch.load(self._progress_file(checkpoint), weights_only=True))
        except (ConfigError, torch.OutOfMemoryError, torch.AcceleratorError, PermissionError):
            raise  # they say nothing about its content
        except DAMAGE as error:
            return shorten(f"{type(error).__name__}: {error}", _TOLD).rstrip(":")
        return None

    def _pass_over(self, checkpoint: Path, damage: str, *, before: Sequence[Path]) -> None:
        """Move a damaged checkpoint out of the way of the one before it.

        Raises:
            ConfigError: there is none before it.
        """
        if not before:
            raise ConfigError(
                f"{checkpoint} cannot be read: {damage}; move it aside to start from the beginning, or choose another "
                "--output"
            )
        if self._accelerator.is_main_process:
            aside = checkpoint.with_name(f"{checkpoint.name}.damaged-{secrets.token_hex(2)}")
            checkpoint.rename(aside)
            warnings.warn(
                f"{checkpoint} cannot be read: {damage}; it lies in {aside.name} now, and the run goes on from "
                f"{before[-1].name}",
                stacklevel=3,
            )
        self._accelerator.wait_for_everyone()

    def _write(self, path: Path) -> None:
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(path))
        torch.save(self._state.state_dict(), self._progress_file(path))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            files = {str(file.relative_to(path)): file.stat().st_size for file in path.rglob("*") if file.is_file()}
            written = {"format": FORMAT, PACKAGE: version(PACKAGE), "processes": self._accelerator.num_processes}
            write_text(path / "checkpoint.json", json.dumps({**written, "files": files}, indent=1) + "\n")
        self._accelerator.wait_for_everyone()

    def _progress_file(self, checkpoint: Path) -> Path:
        """Every process has a fission buffer of its own."""
        return checkpoint / f"progress-{self._accelerator.process_index}.pt"


def read_plain(file: Path) -> dict[str, Any]:
    """What `torch.save` wrote of plain data and tensors, for engines that keep checkpoints of their own. No code of the
    file is run.

    Raises:
        ConfigError: it is damaged, or holds something else.
    """
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
    except DAMAGE as error:
        raise ConfigError(
            f"{file} cannot be read: {shorten(f'{type(error).__name__}: {error}', _TOLD)}; "
            "resume from an older checkpoint"
        ) from error
    return state


def _label(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        ConfigError: another version wrote it; nothing else of it has been opened.
        OSError, ValueError, KeyError, TypeError: it cannot be read.
    """
    path = checkpoint / "checkpoint.json"
    label = json.loads(path.read_bytes()) if path.exists() else {"format": 1, PACKAGE: "0.1.0"}
    if label["format"] != FORMAT:
        raise ConfigError(
            f"{checkpoint} was written by {PACKAGE} {label[PACKAGE]} (checkpoint format {label['format']}), and this "
            f"version, {version(PACKAGE)}, reads format {FORMAT}: finish the run with {PACKAGE}=={label[PACKAGE]}, or "
            "start it anew with another --output (its metrics, traces and policy can still be read)"
        )
    return dict(label)


def _require_whole(checkpoint: Path, files: Mapping[str, int]) -> None:
    """Every file is there, as long as it was.

    Raises:
        ValueError: one is not.
    """
    for name, length in files.items():
        found = (checkpoint / name).stat().st_size if (checkpoint / name).is_file() else None
        if found != length:
            raise ValueError(f"{name} has {found} bytes, expected {length}" if found is not None else f"no {name}")


def _save_trained_weights(models: list[Any], weights: list[Any], output: str) -> None:
    """accelerate's pre-save hook: an ordinary Hugging Face folder; of a LoRA policy the adapter alone."""
    for model in models:
        save_trained_weights(model, Path(output) / "model", is_main_process=PartialState().is_main_process)
        weights.pop()


def _load_trained_weights(models: list[Any], input_dir: str) -> None:
    while models:
        load_trained_weights(models.pop(), Path(input_dir) / "model")
