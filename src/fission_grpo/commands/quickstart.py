"""The whole method on one laptop: warm start, GRPO and Fission-GRPO at equal rollout budget, evaluated side by side.

Arms are trained and evaluated by a pool of processes, one thread each, as many as there are cores; each job is one of
these commands with settings of its own. Everything that is shown is read back from the files they leave; what is
finished is not done again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fission_grpo.commands.worker_pool import Job, work
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_json, write_text
from fission_grpo.recipes import Recipe
from fission_grpo.recipes.arms import Arm
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, Results

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings

DEFAULT_ARMS = ("grpo-decision", "fission-decision")
HELDOUT_SEED = 1
"""Seed of the held-out tasks. Those of seed 0 were reported on by an earlier recipe, and so have been seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quickstart:
    """What a quickstart does."""

    output: Path
    model: str = "nano"
    recipe: str = "nano"
    arms: tuple[str, ...] = DEFAULT_ARMS
    seeds: tuple[int, ...] = (0,)
    size: int = 300
    """Held-out episodes, and items of each probe."""
    overrides: tuple[str, ...] = ()
    """Dotted settings for every arm."""

    def results(self) -> Results:
        """Where everything is that the summary reads."""
        return Results(folder=self.output, arms=self.arms, seeds=self.seeds, size=self.size)


def run_quickstart(plan: Quickstart, *, workers: int, report: Callable[[str], None]) -> Path:
    """Do everything that is not done yet, then write the report.

    Args:
        workers: processes side by side.
        report: told one line for each job that begins or ends.
    Returns:
        The path of `summary.md`.
    Raises:
        FissionError: a job failed; its log is named. What the others finished is kept.
    """
    plan.output.mkdir(parents=True, exist_ok=True)
    _require_same_plan(plan)
    work(jobs(plan), workers=workers, report=report)
    return plan.results().summary


def jobs(plan: Quickstart) -> list[Job]:
    """Training and evaluation of every arm and seed, and of the two starts without reinforcement; the longest first.

    The last one writes the report, each time anew.
    """
    trainings = [_training(plan, arm, seed) for seed in plan.seeds for arm in plan.arms]
    demonstrated = plan.output / f"{DEMONSTRATIONS}-0" / "policy"
    demonstrations = Job(
        name=f"{DEMONSTRATIONS}-0",
        run=partial(_demonstrate, plan, str(demonstrated)),
        log=_log(plan, f"{DEMONSTRATIONS}-0"),
        product=demonstrated / "config.json",
    )
    evaluations = [
        _evaluation(plan, DEMONSTRATIONS, 0, model=str(demonstrated), after=(demonstrations.name,)),
        *(
            _evaluation(plan, arm, seed, model=str(plan.results().run(arm, seed).policy), after=(f"{arm}-{seed}",))
            for seed in plan.seeds
            for arm in reversed(plan.arms)  # those that recover go on for longer
        ),
        _evaluation(plan, WARM_START, 0, model=plan.model),
    ]
    before = [*trainings, demonstrations, *evaluations]
    names = tuple(job.name for job in before)
    return [*before, Job(name="summary", run=partial(_summarise, plan), log=_log(plan, "summary"), after=names)]


def _require_same_plan(plan: Quickstart) -> None:
    """What lies in the folder is only reused for the same experiment; more arms and seeds may join it.

    Raises:
        ConfigError: the folder holds another one, or a `plan.json` that cannot be read.
    """
    path = plan.output / "plan.json"
    wanted = {"model": plan.model, "recipe": plan.recipe, "size": plan.size, "overrides": list(plan.overrides)}
    if path.exists():
        found = read_json(path, remedy="restore it or choose another --output")
        if found != wanted:
            raise ConfigError(f"{plan.output} holds {found}, asked for {wanted}; choose another --output")
    write_text(path, json.dumps(wanted) + "\n")


def _training(plan: Quickstart, arm: str, seed: int) -> Job:
    name, folder = f"{arm}-{seed}", plan.results().run(arm, seed)
    train = partial(_train, plan, arm, seed, resume=folder.config.exists())
    return Job(name=name, run=train, log=_log(plan, name), product=folder.policy / "config.json")


def _evaluation(plan: Quickstart, name: str, seed: int, *, model: str, after: tuple[str, ...] = ()) -> Job:
    folder = plan.results().evaluation(name, seed)
    return Job(
        name=f"evaluate {name}-{seed}",
        run=partial(_evaluate, plan, model, folder),
        log=_log(plan, f"evaluate {name}-{seed}"),
        product=folder / "complete.json",
        after=after,
    )


def _log(plan: Quickstart, name: str) -> Path:
    return plan.output / "logs" / f"{name.replace(' ', '-')}.log"


# The jobs themselves. They run in processes of their own, and what they import costs seconds: only they import it.


def _train(plan: Quickstart, arm: str, seed: int, *, resume: bool) -> None:
    from fission_grpo.commands.train import train

    output = str(plan.results().run(arm, seed).path)
    chosen = {"model": plan.model, "output": output, "trainer.seed": seed}
    done = train(_settings(plan, chosen, Arm(arm)), resume=resume)
    _say(done)
    if not done.finished:
        raise SystemExit(1)


def _demonstrate(plan: Quickstart, policy: str) -> None:
    from fission_grpo.commands.supervise import demonstrate

    done = demonstrate(_settings(plan, {"model": plan.model}), output=Path(policy))
    shown = {"demonstrations": done.demonstrations, "clean": done.clean, "updates": len(done.losses)}
    write_text(plan.results().demonstrated, json.dumps(shown) + "\n")
    _say(done)


def _evaluate(plan: Quickstart, model: str, folder: Path) -> None:
    from fission_grpo.commands.heldout import evaluate_heldout, tables
    from fission_grpo.tasks.synthesis.generator import Split

    settings = _settings(plan, {"model": model})
    found = evaluate_heldout(settings, output=folder, split=Split.HELDOUT, seed=HELDOUT_SEED, size=plan.size)
    _say(tables(found, name=Path(model).name))


def _summarise(plan: Quickstart) -> None:
    from fission_grpo.report.summary import write_summary

    write_summary(plan.results())


def _settings(plan: Quickstart, chosen: Mapping[str, Any], arm: Arm | None = None) -> RunSettings:
    """The recipe, what a job chooses, what the user wrote, and the arm."""
    from fission_grpo.config import Setting, read_overrides
    from fission_grpo.recipes.resolve import resolve

    by_job = [Setting(key=tuple(name.split(".")), value=value, origin="quickstart") for name, value in chosen.items()]
    return resolve(recipe=Recipe(plan.recipe), arm=arm, written=[*by_job, *read_overrides(plan.overrides)])


def _say(told: object) -> None:
    """Into the log of the job."""
    sys.stdout.write(f"{told}\n")
