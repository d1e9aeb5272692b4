"""A run that was trained, by whichever engine, and what every engine's run keeps to."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fission_grpo.assembly import ENVIRONMENTS
from fission_grpo.chat.format import ChatFormat
from fission_grpo.config import RunSettings
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.files import read_jsonl
from fission_grpo.run.alarms import Alarms
from fission_grpo.run.folder import RunFolder, quoted
from fission_grpo.run.inputs import accelerators, model_inputs, with_tasks
from fission_grpo.run.provenance import record_provenance
from fission_grpo.tasks.jsonl import record_of
from fission_grpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSoFar(ABC):
    """A run that has come to its end, or to the first Ctrl-C. Everything else is in its folder."""

    settings: RunSettings
    step: int
    """Updates that have been made."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Updates that there are to be."""

    @property
    @abstractmethod
    def how_to_go_on(self) -> str:
        """For a run that has not finished, in words for a person."""

    @property
    def finished(self) -> bool:
        """Whether every update has been made; if not, it goes on with `resume=True`."""
        return self.step >= self.steps

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.settings.folder

    @property
    def policy(self) -> Path:
        """The trained model as an ordinary Hugging Face folder; there once the run has finished."""
        return RunFolder(self.folder).policy

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One mapping of names to numbers for each update, read from `metrics.jsonl`.

        Raises:
            DataError: a line of the file is damaged.
        """
        return list(read_jsonl(RunFolder(self.folder).metrics, "step"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun(RunSoFar):
    """A run of reinforcement."""

    environments: Environments
    """Where its tasks live, by name."""

    @property
    def steps(self) -> int:
        """Updates that there are to be."""
        return self.settings.trainer.steps

    @property
    def how_to_go_on(self) -> str:
        """For a run that has not finished; a program's own environments are not known to the command line."""
        if self.environments.keys() - ENVIRONMENTS.keys() - self.settings.environments.keys():
            return "continue with: train(..., resume=True)"
        return f"continue with: fission train --resume --output {quoted(self.folder)}"

    def __str__(self) -> str:
        """One line for a person: where the policy is, or how to go on."""
        if self.finished:
            return f"policy in {self.policy}"
        return f"stopped after step {self.step} of {self.steps}; {self.how_to_go_on}"


def require_same_tasks(run: RunFolder, tasks: Sequence[Task]) -> None:
    """A run goes on with the tasks it was begun with.

    Raises:
        ConfigError: it was begun with others.
    """
    asked = [json.loads(json.dumps(record_of(task))) for task in tasks]
    if run.tasks.exists() and list(read_jsonl(run.tasks)) != asked:
        raise ConfigError(
            f"{run.path} was started with other tasks; resume with the same ones, or choose another output"
        )


def record_origin(
    folder: Path, model: str, *, chat: ChatFormat, tasks: Sequence[Task], data: str, step: int = 0, processes: int = 1
) -> None:
    """Write down where a training or an evaluation comes from: see `Provenance`.

    Args:
        data: where the tasks came from: a file, or a word of ours.
        step: updates that have been made already.
        processes: that share the work.
    """
    inputs = model_inputs(model, template=chat.tokenizer.chat_template)
    record_provenance(
        folder,
        inputs=with_tasks(inputs, tasks, data=data),
        step=step,
        accelerators=accelerators(),
        threads=torch.get_num_threads(),
        processes=processes,
    )


@contextmanager
def errors_name_the_run(run: RunSoFar) -> Iterator[None]:
    """Whatever breaks is told with the place where the rest is safe."""
    try:
        yield
    except (FissionError, OSError) as error:
        error.add_note(f"the run so far is in {run.folder}; {run.how_to_go_on}")
        raise


def alarms_of(settings: RunSettings, run: RunFolder, *, done: int) -> Alarms:
    """What a run is watched for.

    Args:
        done: updates of its folder that were made already.
    """
    trainer = settings.trainer
    return Alarms(
        trainer.steps,
        learning_rate=trainer.learning_rate,
        beta=trainer.beta,
        gap=trainer.gap_warning,
        gap_stops=trainer.gap_stops,
        so_far=read_jsonl(run.metrics) if done and run.metrics.exists() else (),
    )


def status_line(metrics: Mapping[str, float], *, entropy: str) -> str:
    """What a progress display says of a step.

    Args:
        entropy: what the engine calls it.
    """
    shown = {"reward": "reward", "success": "success", "fission/success": "recovered", entropy: "entropy"}
    return "  ".join(f"{word} {metrics[name]:.3f}" for name, word in shown.items() if name in metrics)
