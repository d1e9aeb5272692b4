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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fission_grpo.errors import FissionError
from fission_grpo.evaluation.comparison import Arm, Comparison, compare
from fission_grpo.evaluation.dead_groups import count_dead_groups, group_outcome, read_traces
from fission_grpo.evaluation.metrics import (
    EPISODE_METRICS,
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    PROBE,
    PROBE_METRICS,
)
from fission_grpo.evaluation.runner import Evaluation
from fission_grpo.report.figures import curves_figure, rates_figure, read_metrics
from fission_grpo.report.style import arm_colours
from fission_grpo.report.tables import (
    comparisons_table,
    dead_groups_table,
    effort_table,
    metrics_table,
    probes_by_class_table,
    repeats_table,
    verdict_sentence,
)
from fission_grpo.report.tree import fission_trees, most_telling, text_tree
from fission_grpo.report.tree_figure import tree_figure
from fission_grpo.run_folder import RunFolder, write_text

WARM_START, DEMONSTRATIONS = "warm start", "demonstrations"
BASELINE, TREATMENT = "grpo-matched", "fission"
DEFAULT_ARMS = (BASELINE, TREATMENT)


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

    def run(self, arm: str, seed: int) -> RunFolder:
        return RunFolder(self.output / f"{arm}-{seed}")

    def evaluation(self, name: str, seed: int) -> Path:
        return self.output / f"{name.replace(' ', '-')}-{seed}" / "evaluation"


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
            _evaluation(plan, arm, seed, model=str(plan.run(arm, seed).policy), after=f"{arm}-{seed}")
            for seed in plan.seeds
            for arm in plan.arms
        ),
    ]


def run(self, arm: str, seed: int) -> RunFolder:
        return RunFolder(self.output / f"{arm}-{seed}")

    def evaluation(self, name: str, seed: int) -> Path:
        return self.output / f"{name.replace(' ', '-')}-{seed}" / "evaluation"


def jobs(plan: Plan) -> list[Job]:
    """Training and evaluation of every arm and seed, and of the two starts without reinforcement."""
    found = [_evaluation(plan, WARM_START, 0, plan.model, after=None)]
    demonstrated = plan.output / f"{DEMONSTRATIONS}-0"
    found.append(
        _job(plan, f"{DEMONSTRATIONS}-0", "supervise", "--model", plan.model, "--output", str(demonstrated / "policy"))
    )
    found.append(
        _evaluation(plan, DEMONSTRATIONS, 0, str(demonstrated / "policy"), after=f"{DEMONSTRATIONS}-0")
    )
    trainings = [_training(plan, arm, seed) for seed in plan.seeds for arm in plan.arms]
    evaluations = [
        _evaluation(plan, arm, seed, str(plan.run(arm, seed).policy), after=f"{arm}-{seed}")
        for seed in plan.seeds
        for arm in plan.arms
    ]
    return [*trainings, *found, *evaluations]


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
    _work(jobs(plan), workers=workers, report=report)
    return write_report(plan)


def write_report(plan: Plan) -> Path:
    """Read every evaluation back and write `summary.md` with its pictures."""
    arms = _load(plan)
    probes = {part: [_arm_of(arm, plan, part) for arm in arms] for part in ("mixed", "precondition", "transfer")}
    comparisons = list(_comparisons(arms, probes)) if {BASELINE, TREATMENT} <= {arm.name for arm in arms} else []
    traces = {arm: [g for seed in plan.seeds for g in read_traces(plan.run(arm, seed).traces)] for arm in plan.arms}
    colours = arm_colours([arm.name for arm in arms])
    rates_figure(arms, (FINAL, ERR, FIRST_ATTEMPT), plan.output / "episodes.png", colours=colours)
    rates_figure(probes["mixed"], PROBE_METRICS, plan.output / "probe.png", colours=colours)
    curves = {arm: [read_metrics(plan.run(arm, seed).metrics) for seed in plan.seeds] for arm in plan.arms}
    curves_figure(curves, plan.output / "curves.png", colours=colours)
    accounts = {
        arm: count_dead_groups(o for o in map(group_outcome, groups) if o) for arm, groups in traces.items()
    }
    sections = [
        "# Quickstart: what fission teaches",
        *(f"- {verdict_sentence(one)}" for one in comparisons),
        f"\n{plan.size} held-out tasks; {len(plan.seeds)} training seed(s). "
        "Cells: rate (count) with Wilson 95 % intervals over pooled runs, somewhat too narrow where runs share tasks; "
        "differences: paired bootstrap over tasks and seeds.",
        "\n## Fixed-error probe, all kinds of errors\n\n![probe](probe.png)\n",
        metrics_table(probes["mixed"], PROBE_METRICS),
        probes_by_class_table(probes["mixed"]),
        "\n## Fixed-error probe, unmet preconditions only\n",
        metrics_table(probes["precondition"], PROBE_METRICS),
        "\n## Held-out episodes\n\n![episodes](episodes.png)\n",
        metrics_table(arms, EPISODE_METRICS),
        "\nIdentical repeats by error class:\n",
        repeats_table(arms),
        effort_table(arms),
        "\n## An API never trained on (transfer)\n",
        metrics_table(probes["transfer"], (FIRST_ATTEMPT, FINAL, ERR)),
        "\n## Paired differences\n",
        comparisons_table(comparisons),
        "\n## Dead groups\n\n![curves](curves.png)\n",
        dead_groups_table(accounts),
        *_tree_section(traces.get(TREATMENT, []), plan.output),
    ]
    summary = plan.output / "summary.md"
    write_text(summary, "\n".join(sections) + "\n")
    write_text(plan.output / "summary.json", json.dumps([_flat(one) for one in comparisons], indent=2) + "\n")
    return summary


def _tree_section(traces: Sequence[Mapping[str, object]], output: Path) -> Iterator[str]:
    tree = most_telling(fission_trees(traces))
    if tree is not None:
        tree_figure(tree, output / "tree.png")
        yield "\n## One fission tree (chosen because it tells much)\n\n![tree](tree.png)\n"
        yield f"```\n{text_tree(tree)}\n```"


def _comparisons(arms: Sequence[Arm], probes: Mapping[str, Sequence[Arm]]) -> Iterator[Comparison]:
    by_name = {arm.name: arm for arm in arms}
    for part in ("mixed", "precondition"):
        probed = {arm.name: arm for arm in probes[part]}
        yield compare(PROBE, probed[BASELINE], probed[TREATMENT])
        yield compare(FINAL, probed[BASELINE], probed[TREATMENT])
    for metric in (FIRST_ATTEMPT, FINAL, ERR):
        yield compare(metric, by_name[BASELINE], by_name[TREATMENT])
    for metric in (FIRST_ATTEMPT, FINAL, ERR):
        yield compare(metric, by_name[WARM_START], by_name[TREATMENT])


def _load(plan: Plan) -> list[Arm]:
    starts = [Arm(name=n, runs={0: Evaluation.load(plan.evaluation(n, 0)).episodes}) for n in (WARM_START, DEMONSTRATIONS)]
    return starts + [
        Arm(name=arm, runs={seed: Evaluation.load(plan.evaluation(arm, seed)).episodes for seed in plan.seeds})
        for arm in plan.arms
    ]


def _arm_of(arm: Arm, plan: Plan, part: str) -> Arm:
    runs = {seed: getattr(Evaluation.load(plan.evaluation(arm.name, seed)), part) for seed in arm.runs}
    return Arm(name=arm.name, runs=runs)


def _flat(comparison: Comparison) -> dict[str, object]:
    return {
        "metric": comparison.metric.name,
        "baseline": comparison.baseline,
        "treatment": comparison.treatment,
        "difference": comparison.difference,
        "low": comparison.interval.low,
        "high": comparison.interval.high,
        "tasks": comparison.tasks,
        "runs": list(comparison.runs),
    }


def _training(plan: Plan, arm: str, seed: int) -> Job:
    folder = plan.run(arm, seed)
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
        *("supervise", "--recipe", plan.recipe, "--model", plan.model, "--output", str(policy)),
        product=policy / "config.json",
    )


def _evaluation(plan: Plan, name: str, seed: int, *, model: str, after: str | None = None) -> Job:
    folder = plan.evaluation(name, seed)
    return _job(
        plan,
        f"evaluate {name}-{seed}",
        *("eval", "--model", model, "--recipe", plan.recipe, "--size", str(plan.size), "--output", str(folder)),
        product=folder / "complete.json",
        after=after,
    )


def _job(plan: Plan, name: str, *arguments: str, product: Path, after: str | None = None) -> Job:
    log = plan.output / "logs" / f"{name.replace(' ', '-')}.log"
    command = (sys.executable, "-m", "fission_grpo.cli", *arguments)
    return Job(name=name, command=command, log=log, product=product, after=after)


def _work(todo: Sequence[Job], *, workers: int, report: Callable[[str], None]) -> None:
    """Run jobs in order, `workers` at a time, each after the one it waits for."""
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
