"""The whole method on one laptop: warm start, GRPO and Fission-GRPO at equal rollout budget, evaluated side by side.

Arms are trained and evaluated by a crew of processes, one thread each, as many as there are cores. Everything that is
shown is read back from the files they leave; what is finished is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fission_grpo.commands.worker_pool import Job, work
from fission_grpo.errors import ConfigError
from fission_grpo.files import write_text
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, Results

DEFAULT_ARMS = ("grpo-decision", "fission-decision")
HELDOUT_SEED = 1
"""Seed of the held-out tasks. Those of seed 0 were reported on by an earlier recipe, and so have been seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
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


def jobs(plan: Plan) -> list[Job]:
    """Training and evaluation of every arm and seed, and of the two starts without reinforcement; the longest first.

    The last one writes the report, each time anew.
    """
    trainings = [_training(plan, arm, seed) for seed in plan.seeds for arm in plan.arms]
    demonstrations = _demonstrations(plan)
    evaluations = [
        _evaluation(plan, DEMONSTRATIONS, 0, model=str(_demonstrated(plan)), after=(demonstrations.name,)),
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


def run(plan: Plan, *, workers: int, report: Callable[[str], None]) -> Path:
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
    _same_plan(plan)
    work(jobs(plan), workers=workers, report=report)
    return plan.results().summary


def _same_plan(plan: Plan) -> None:
    """What lies in the folder is only reused for the same experiment; more arms and seeds may join it.

    Raises:
        ConfigError: the folder holds another one.
    """
    path = plan.output / "plan.json"
    wanted = {"model": plan.model, "recipe": plan.recipe, "size": plan.size, "overrides": list(plan.overrides)}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            raise ConfigError(f"{plan.output} holds {found}, asked for {wanted}; choose another --output")
    write_text(path, json.dumps(wanted) + "\n")


def _training(plan: Plan, arm: str, seed: int) -> Job:
    folder = plan.results().run(arm, seed)
    resume = ["--resume"] if folder.config.exists() else []
    return _job(
        plan,
        f"{arm}-{seed}",
        *("train", "--recipe", plan.recipe, "--arm", arm, "--model", plan.model),
        *("--seed", str(seed), "--output", str(folder.path), *resume, *plan.overrides),
        product=folder.policy / "config.json",
    )


def _demonstrated(plan: Plan) -> Path:
    return plan.output / f"{DEMONSTRATIONS}-0" / "policy"


def _demonstrations(plan: Plan) -> Job:
    policy = _demonstrated(plan)
    return _job(
        plan,
        f"{DEMONSTRATIONS}-0",
        *("supervise", "--recipe", plan.recipe, "--model", plan.model, "--output", str(policy), *plan.overrides),
        product=policy / "config.json",
    )


def _evaluation(plan: Plan, name: str, seed: int, *, model: str, after: tuple[str, ...] = ()) -> Job:
    folder = plan.results().evaluation(name, seed)
    return _job(
        plan,
        f"evaluate {name}-{seed}",
        *("eval", "heldout", "--model", model, "--recipe", plan.recipe, "--output", str(folder)),
        *("--size", str(plan.size), "--seed", str(HELDOUT_SEED)),
        *plan.overrides,
        product=folder / "complete.json",
        after=after,
    )


def _job(plan: Plan, name: str, *arguments: str, product: Path, after: tuple[str, ...] = ()) -> Job:
    return Job(name=name, run=partial(_fission, *arguments), log=_log(plan, name), product=product, after=after)


def _log(plan: Plan, name: str) -> Path:
    return plan.output / "logs" / f"{name.replace(' ', '-')}.log"


def _fission(*arguments: str) -> None:
    """What the command does, in this process."""
    from fission_grpo.cli import run_command  # the command line is above us

    run_command(arguments)


def _summarise(plan: Plan) -> None:
    from fission_grpo.report.summary import write_summary  # costs seconds, and only a process of the crew needs it

    write_summary(plan.results())
