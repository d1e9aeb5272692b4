"""Train a policy by settings: what `fission train`, every training of the quickstart, and `fission_grpo.train` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from fission_grpo.assembly import ENVIRONMENTS, agreed, assemble, open_run, save_policy
from fission_grpo.commands.tracking import tracking
from fission_grpo.commands.trained_run import (
    TrainedRun,
    alarms_of,
    errors_name_the_run,
    record_origin,
    require_same_tasks,
    status_line,
)
from fission_grpo.config import RunSettings
from fission_grpo.engines import Engine
from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.progress import progress, warn
from fission_grpo.run.alarms import Alarms
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.interruption import Interruption
from fission_grpo.run.lock import writing_into
from fission_grpo.run.trackers import require_trackers
from fission_grpo.tasks.jsonl import Given, write_tasks
from fission_grpo.tasks.training_set import GIVEN
from fission_grpo.training.trainer import StepReport, Trainer


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
    run, settings = RunFolder(settings.folder), settings.from_anywhere()
    if tasks is not None:
        settings = settings.model_copy(update={"data": GIVEN})
    run.check(settings.saved(), resume=resume)
    require_trackers(settings.trackers)
    known = {**ENVIRONMENTS, **environments_of(environments or {})}
    if settings.engine.name is Engine.TRL:
        require_engine(Engine.TRL)
        from fission_grpo.commands.train_trl import train_inside_trl

        return train_inside_trl(settings, tasks=tasks, environments=known, resume=resume)
    if settings.engine.name is Engine.VERL:
        require_engine(Engine.VERL)
        from fission_grpo.commands.train_verl import train_inside_verl

        return train_inside_verl(settings, tasks=tasks, environments=known, resume=resume)
    trainer = assemble(settings, environments=known, tasks=tasks)
    if tasks is not None:
        require_same_tasks(run, trainer.tasks)
    with writing_into(run.path) if trainer.accelerator.is_main_process else nullcontext():
        open_run(trainer, settings, resume=resume)
        if tasks is not None and trainer.accelerator.is_main_process:
            write_tasks(run.tasks, trainer.tasks)
        _record_origin(trainer, settings)
        done = TrainedRun(settings=settings, environments=trainer.stages.environments, step=trainer.state.step)
        told = tracking(settings, is_main_process=trainer.accelerator.is_main_process)
        alarms = alarms_of(settings, run, done=trainer.state.step)
        with (
            errors_name_the_run(done),
            Interruption() as interruption,
            told as tell,
            _reports(trainer, tell, alarms) as report,
        ):
            trainer.train(
                stop=agreed(lambda: interruption() or alarms.stop is not None, trainer.accelerator), report=report
            )
            if trainer.finished:  # whoever finds `policy/` must be able to take it for the trained one
                save_policy(trainer)
            elif alarms.stop:
                raise FissionError(f"{alarms.stop}; or go on with trainer.gap_stops=false")
    return replace(done, step=trainer.state.step)


def _record_origin(trainer: Trainer, settings: RunSettings) -> None:
    if trainer.accelerator.is_main_process and not trainer.finished:
        record_origin(
            trainer.run.path,
            settings.model,
            chat=trainer.chat,
            tasks=trainer.tasks,
            data=settings.data,
            step=trainer.state.step,
            processes=trainer.accelerator.num_processes,
        )


def require_engine(engine: Engine) -> None:
    """Ask for the extra before anything is spent; it bears the name of the engine and of its package.

    Raises:
        ConfigError: it is not installed.
    """
    if find_spec(engine) is None:
        raise ConfigError(f"engine={engine} is not installed; install it: pip install 'fission-grpo[{engine}]'")


@contextmanager
def _reports(trainer: Trainer, tell: Callable[[], None], alarms: Alarms) -> Iterator[Callable[[StepReport], None]]:
    """Progress on the main process, silence on the others.

    Args:
        tell: whom else, after each step.
        alarms: what may have to be said beside it.
    """
    if not trainer.accelerator.is_main_process:
        yield lambda report: None
        return
    with progress("train", total=trainer.settings.steps, done=trainer.state.step) as show:

        def report_step(report: StepReport) -> None:
            show(report.step, status_line(report.metrics, entropy="update/entropy"))
            warn(alarms.heed(report.step, report.metrics))
            tell()

        yield report_step
