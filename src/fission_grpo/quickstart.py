"""The whole method on one laptop: warm start, GRPO and Fission-GRPO at equal rollout budget, evaluated side by side.

Arms are trained and evaluated in processes of their own, one thread each, as many at a time as there are cores.
Everything that is shown is read back from the files they leave; what is finished is not done again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.report.summary import DEMONSTRATIONS, WARM_START, Results, write_summary
from fission_grpo.run_folder import write_text

DEFAULT_ARMS = ("grpo-decision", "fission-decision")
HELDOUT_SEED = 1
"""Seed of the held-out tasks. Those of seed 0 were reported on by an earlier recipe, and so have been seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process: what it is called, and what it runs."""

    name: str
    command: tuple[str, ...]
    log: Path
    product: Path
    """What it leaves behind when it has finished; a job whose product exists is not run again."""
    after: str | None = None
    """Name of the job that must have finished before."""


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
    """Training and evaluation of every arm and seed, and of the two starts without reinforcement; the longest first."""
    trainings = [_training(plan, arm, seed) for seed in plan.seeds for arm in plan.arms]
    demonstrations = _demonstrations(plan)
    return [
        *trainings,
        demonstrations,
        _evaluation(plan, WARM_START, 0, model=plan.model),
        _evaluation(plan, DEMONSTRATIONS, 0, model=str(demonstrations.product.parent), after=demonstrations.name),
        *(
            _evaluation(plan, arm, seed, model=str(plan.results().run(arm, seed).policy), after=f"{arm}-{seed}")
            for seed in plan.seeds
            for arm in plan.arms
        ),
    ]


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
    return write_summary(plan.results())


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


def _demonstrations(plan: Plan) -> Job:
    name = f"{DEMONSTRATIONS}-0"
    policy = plan.output / name / "policy"
    return _job(
        plan,
        name,
        *("supervise", "--recipe", plan.recipe, "--model", plan.model, "--output", str(policy), *plan.overrides),
        product=policy / "config.json",
    )


def _evaluation(plan: Plan, name: str, seed: int, *, model: str, after: str | None = None) -> Job:
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


def _job(plan: Plan, name: str, *arguments: str, product: Path, after: str | None = None) -> Job:
    log = plan.output / "logs" / f"{name.replace(' ', '-')}.log"
    command = (sys.executable, "-m", "fission_grpo.cli", *arguments)
    return Job(name=name, command=command, log=log, product=product, after=after)


def work(todo: Sequence[Job], *, workers: int, report: Callable[[str], None]) -> None:
    """Run jobs in order, `workers` at a time, each after the one it waits for; what is finished is not done again.

    Raises:
        FissionError: a job failed; its log is named, and the jobs beside it are ended.
    """
    finished = {job.name for job in todo if job.product.exists()}
    waiting = deque(job for job in todo if job.name not in finished)
    running: dict[Job, subprocess.Popen[bytes]] = {}
    began = time.monotonic()
    try:
        while waiting or running:
            for job in [job for job in waiting if job.after is None or job.after in finished][: workers - len(running)]:
                waiting.remove(job)
                running[job] = _begin(job)
                report(f"[{time.monotonic() - began:5.0f} s] begins    {job.name}")
            job = _first_to_end(running)
            if running.pop(job).returncode != 0:
                tail = job.log.read_text(encoding="utf-8", errors="replace")[-1500:]
                raise FissionError(f"{job.name} failed; the end of {job.log}:\n{tail}")
            finished.add(job.name)
            report(f"[{time.monotonic() - began:5.0f} s] finished  {job.name}  ({len(finished)} of {len(todo)})")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _begin(job: Job) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        return subprocess.Popen(job.command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _first_to_end(running: Mapping[Job, subprocess.Popen[bytes]]) -> Job:
    while True:
        for job, process in running.items():
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            return job
