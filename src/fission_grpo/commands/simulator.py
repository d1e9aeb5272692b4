"""The Error Simulator by command: its records, its training, its audit, and all simulators side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from fission_grpo.assembly import ENVIRONMENTS, SIMULATORS, with_own_environments
from fission_grpo.config import RunSettings, SimulatorName
from fission_grpo.errors import ConfigError
from fission_grpo.progress import progress
from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator
from fission_grpo.simulator_lab.audit import Audit, audit
from fission_grpo.simulator_lab.corpus import OwnTasks, RecordCount, RecordSettings, simulator_records
from fission_grpo.simulator_lab.finetune import Fit, SimulatorTrainingSettings, train_simulator
from fission_grpo.simulator_lab.records import (
    RecordSplit,
    read_simulator_records,
    write_simulator_records,
)
from fission_grpo.simulator_lab.side_by_side import FREE, sample_record, side_by_side
from fission_grpo.tasks.probe import can_be_probed
from fission_grpo.tasks.training_set import SYNTHETIC, training_set


def make_records(
    output: Path, *, count: int, seed: int = 0, runs: Sequence[Path] = (), teacher: RunSettings
) -> RecordCount:
    """Make records of failed calls and write them; folders are made.

    Args:
        runs: run folders whose failures are used.
        teacher: settings that choose the simulator which diagnoses calls that succeeded and were wrong, and name the
            user's own tasks and worlds, if there are any.

    Raises:
        ConfigError: no such simulator, model, server or run, tasks that cannot be drawn, or own tasks to which no wrong
            call could be made.
        DataError: the file of tasks has problems.
    """
    chosen, settings = simulator_of(teacher), RecordSettings(seed=seed, count=count)
    own = _own_tasks(teacher)
    with progress("records", total=len(settings.apis) + len(runs) + (own is not None)) as show:
        records, counted = simulator_records(settings, runs=runs, own=own, teacher=chosen, progress=show)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_simulator_records(output, records)
    return counted


def _own_tasks(settings: RunSettings) -> OwnTasks | None:
    """The tasks that some settings name; None where they are synthesised ones."""
    if settings.data == SYNTHETIC:
        return None
    environments = with_own_environments(ENVIRONMENTS, settings.environments)
    tasks = training_set(settings.data, settings.synthetic, environments=environments)
    if not any(map(can_be_probed, tasks)):
        raise ConfigError(
            f"data={settings.data}: no wrong call can be made in its {len(tasks)} task(s): that takes a world and gold "
            "calls per turn (`turns`); add them, or leave data out"
        )
    return OwnTasks(tasks=tasks, environments=environments)


def finetune(
    records: Path, settings: SimulatorTrainingSettings, *, output: Path, log: Callable[[str], None] = lambda line: None
) -> Fit:
    """Fine-tune a simulator on the training split of some records, and save it.

    Args:
        log: called with what is done before the first step.

    Raises:
        ConfigError: see `train_simulator`.
        DataError: the file has problems; all of them are listed.
    """
    with ExitStack() as shown:
        shows: list[Callable[[int, str], None]] = []

        def show(step: int, steps: int, loss: float) -> None:
            if not shows:  # only now is it known how many steps there are
                shows.append(shown.enter_context(progress("simulator", total=steps)))
            shows[0](step, f"loss {loss:.3f}")

        return train_simulator(read_simulator_records(records), settings, output, progress=show, log=log)


def audit_simulator(
    records: Path, settings: RunSettings, *, split: RecordSplit, limit: int | None = None, worldless: bool = False
) -> Audit:
    """Measure the simulator that some settings choose on one split of some records.

    Args:
        limit: only the first so many records.
        worldless: show no simulator what the world said.

    Raises:
        ConfigError: no such simulator, model or server, no record of the split, or settings that name tasks.
        DataError: the file has problems; all of them are listed.
    """
    _require_one_source(records, settings)
    asked = read_simulator_records(records, split=split)[:limit]
    if not asked:
        raise ConfigError(f"{records} has no record of split {split}")
    chosen = simulator_of(settings)
    with progress("audit", total=len(asked)) as show:
        return audit(chosen, asked, worldless=worldless, progress=show)


def try_simulators(
    records: Path | None,
    settings: RunSettings,
    *,
    index: int = 0,
    seed: int = 0,
    more: Sequence[SimulatorName] = (),
) -> Iterator[str]:
    """One failed call, and what each simulator says about it, in lines for a person.

    Args:
        records: a file of records; None draws a failed call.
        settings: of models and servers; tasks that they name are those that the call is drawn from.
        index: which of the records.
        seed: of the call that is drawn.
        more: simulators besides the free ones.

    Raises:
        ConfigError: no such record, simulator, model or server, or both records and tasks.
        DataError: the file has problems; all of them are listed.
    """
    if records is None:
        record = sample_record(seed, _own_tasks(settings))
    else:
        _require_one_source(records, settings)
        held = read_simulator_records(records)
        if index >= len(held):
            raise ConfigError(f"{records} has {len(held)} records; --index {index} is none of them")
        record = held[index]
    chosen = [SIMULATORS[name](settings) for name in more]
    case = record.case()
    yield f"failed: {case.failed.text}"
    for trial in side_by_side(case, (*FREE, *chosen)):
        yield from trial.lines()


def _require_one_source(records: Path, settings: RunSettings) -> None:
    """Records have been made of tasks already.

    Raises:
        ConfigError: the settings name tasks beside them.
    """
    if settings.data != SYNTHETIC:
        raise ConfigError(
            f"data={settings.data} has no part in what is in {records}; leave it out, or make records of these tasks: "
            f"fission simulator data -o own.jsonl data={settings.data}"
        )


def simulator_of(settings: RunSettings) -> ErrorSimulator | ReferencedSimulator:
    """The simulator that some settings choose.

    Raises:
        ConfigError: no such model or server.
    """
    return SIMULATORS[settings.simulator](settings)
