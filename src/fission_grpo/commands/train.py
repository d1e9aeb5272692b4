"""Train a policy by settings: what `fission train`, every training of the quickstart, and `fission_grpo.train` do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fission_grpo.assembly import ENVIRONMENTS, agreed, assemble, open_run, save_policy
from fission_grpo.config import RunSettings
from fission_grpo.environments.base import Environments
from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.files import read_jsonl
from fission_grpo.progress import progress
from fission_grpo.run.folder import RunFolder, quoted
from fission_grpo.run.interruption import Interruption
from fission_grpo.run.lock import writing_into
from fission_grpo.tasks.jsonl import Given, record_of, write_tasks
from fission_grpo.tasks.training_set import GIVEN
from fission_grpo.training.trainer import StepReport, Trainer
from fission_grpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """A run that has come to its end, or to the first Ctrl-C. Everything else is in its folder."""

    settings: RunSettings
    environments: Environments
    """Where its tasks live, by name."""
    step: int
    """Updates that have been made."""

    @property
    def finished(self) -> bool:
        """Whether every update has been made; if not, `train(settings, resume=True)` goes on."""
        return self.step >= self.settings.trainer.steps

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
        return list(read_jsonl(RunFolder(self.folder).metrics))

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
        return f"stopped after step {self.step} of {self.settings.trainer.steps}; {self.how_to_go_on}"


def train(
    settings: RunSettings,
    *,
    tasks: Given | None = None,
    environments: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> TrainedRun:
    """Train with GRPO and fission, as the settings say. Ctrl-C ends it after its step and saves.

        train(recipe("nano", {"trainer.steps": 20}), tasks=[...], environments={"library": Library})

    Args:
        settings: see `recipe`; `settings.folder` is where the run keeps its files.
        tasks: in place of `settings.data`: tasks, or objects with the keys of a line of a task file. They are kept as
            `tasks.jsonl` in the run folder.
        environments: beside those of the settings: the name that tasks give -> a class of tools, a list of functions,
            or anything that makes an `Environment`.
        resume: continue the run in the folder, from the start if it has none.

    Raises:
        ConfigError: settings, tasks, environments or model cannot work or do not fit each other, or the folder cannot
            be used, or is being written by another process; nothing has been trained then.
        FissionError, OSError: something broke later; a note says where the rest is safe.
    """
    run = RunFolder(settings.folder)
    if tasks is not None:
        settings = settings.model_copy(update={"data": GIVEN})
    run.check(settings.saved(), resume=resume)
    trainer = assemble(settings, environments={**ENVIRONMENTS, **environments_of(environments or {})}, tasks=tasks)
    if tasks is not None:
        _require_same_tasks(run, trainer.tasks)
    with writing_into(run.path) if trainer.accelerator.is_main_process else nullcontext():
        open_run(trainer, settings, resume=resume)
        if tasks is not None and trainer.accelerator.is_main_process:
            write_tasks(run.tasks, trainer.tasks)
        done = TrainedRun(settings=settings, environments=trainer.stages.environments, step=trainer.state.step)
        with _errors_name_the_run(done), Interruption() as interruption, _reports(trainer) as report:
            trainer.train(stop=agreed(interruption, trainer.accelerator), report=report)
            if trainer.finished:  # whoever finds `policy/` must be able to take it for the trained one
                save_policy(trainer)
    return replace(done, step=trainer.state.step)


def _require_same_tasks(run: RunFolder, tasks: Sequence[Task]) -> None:
    """A run goes on with the tasks it was begun with.

    Raises:
        ConfigError: it was begun with others.
    """
    asked = [json.loads(json.dumps(record_of(task))) for task in tasks]
    if run.tasks.exists() and list(read_jsonl(run.tasks)) != asked:
        raise ConfigError(
            f"{run.path} was started with other tasks; resume with the same ones, or choose another output"
        )


@contextmanager
def _errors_name_the_run(run: TrainedRun) -> Iterator[None]:
    """Whatever breaks is told with the place where the rest is safe."""
    try:
        yield
    except (FissionError, OSError) as error:
        error.add_note(f"the run so far is in {run.folder}; {run.how_to_go_on}")
        raise


@contextmanager
def _reports(trainer: Trainer) -> Iterator[Callable[[StepReport], None]]:
    """Progress on the main process, silence on the others."""
    if not trainer.accelerator.is_main_process:
        yield lambda report: None
        return
    with progress("train", total=trainer.settings.steps, done=trainer.state.step) as show:
        yield lambda report: show(report.step, _status_line(report))


def _status_line(report: StepReport) -> str:
    shown = {"reward": "reward", "success": "success", "fission/success": "recovered", "update/entropy": "entropy"}
    return "  ".join(f"{word} {report.metrics[name]:.3f}" for name, word in shown.items() if name in report.metrics)
