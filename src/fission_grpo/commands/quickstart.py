"""The whole method on one laptop: GRPO and Fission-GRPO at equal rollout budget, evaluated side by side.

`nano` ships warm; a model that needs a warm start first gets one (`recipes.supervised`), and everything begins there.

Arms are trained and evaluated by a pool of processes, one thread each, as many as there are cores; each job is one of
these commands with settings of its own. Everything that is shown is read back from the files they leave; what is
finished is not done again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fission_grpo.commands.worker_pool import Job, work
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_json, read_jsonl, write_text
from fission_grpo.recipes import Recipe
from fission_grpo.recipes.arms import Arm
from fission_grpo.recipes.supervised import DEMONSTRATED, WARM_STARTS
from fission_grpo.report.results import DEMONSTRATIONS, WARM_START, Results
from fission_grpo.run.lock import writing_into
from fission_grpo.run.provenance import record_provenance

if TYPE_CHECKING:
    from fission_grpo.commands.sft import FineTunedRun
    from fission_grpo.config import RunSettings

DEFAULT_ARMS = ("grpo-decision", "fission-decision")
HELDOUT_SEED = 11
"""Seed of the held-out tasks. Those of seeds 0, 1 and 5 (and of their probes, 1, 2 and 6) were reported on by earlier
recipes, and so have been seen."""
SEEDS = 8
"""Training runs of each arm: fewer cannot tell a small gain from the luck of a run."""
ARMS_AS_OF = 2
"""Goes up when an arm means something else, so that runs of both meanings never meet in one folder. 1: before 0.2."""
PAID_BY: Mapping[str, str] = {"grpo-tokens": "fission", "grpo-decision-tokens": "fission-decision"}
"""Arm that samples as many tokens as another one did in the run of the same seed -> that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quickstart:
    """What a quickstart does."""

    output: Path
    model: str = "nano"
    recipe: Recipe = Recipe.NANO
    arms: tuple[str, ...] = DEFAULT_ARMS
    seeds: tuple[int, ...] = tuple(range(SEEDS))
    demonstrations: int = 2
    """Runs of the demonstrations, at most as many as there are seeds: each costs more than one of GRPO."""
    size: int = 200
    """Held-out episodes, and items of each probe."""
    overrides: tuple[str, ...] = ()
    """Dotted settings for every arm."""

    @property
    def warm_start(self) -> Mapping[str, Any]:
        """What the model has to learn before anything else, as settings; none for one that can be trained as it is."""
        return WARM_STARTS.get(self.model, {})

    @property
    def start(self) -> str:
        """The policy that everything begins with."""
        return str(self.results().run(WARM_START, 0).policy) if self.warm_start else self.model

    def results(self) -> Results:
        """Where everything is that the summary reads."""
        return Results(
            folder=self.output,
            arms=self.arms,
            seeds=self.seeds,
            size=self.size,
            demonstrations=self.demonstrations,
        )


def run_quickstart(plan: Quickstart, *, workers: int, report: Callable[[str], None]) -> Path:
    """Do everything that is not done yet, then write the report.

    Args:
        workers: processes side by side.
        report: told one line for each job that begins or ends.
    Returns:
        The path of `summary.md`.
    Raises:
        ConfigError: the folder holds another experiment or is being written by another process, or an arm is missing
            that another one is matched with.
        FissionError: a job failed; its log is named. What the others finished is kept.
    """
    _require_whoever_pays(plan)
    with writing_into(plan.output):
        _require_same_plan(plan)
        if plan.warm_start:
            report(_intention(plan))
        record_provenance(plan.output)
        work(jobs(plan), workers=workers, report=report)
    return plan.results().summary


def jobs(plan: Quickstart) -> list[Job]:
    """Training and evaluation of every arm and seed, and of what has seen no reinforcement; the longest first.

    The last one writes the report, each time anew.
    """
    trainings = [_training(plan, arm, seed) for seed in plan.seeds for arm in plan.arms]
    demonstrations = [_demonstration(plan, seed) for seed in plan.results().seeds_of(DEMONSTRATIONS)]
    trained = [
        (arm, seed)
        for seed in plan.seeds
        for arm in (DEMONSTRATIONS, *reversed(plan.arms))
        if seed in plan.results().seeds_of(arm)
    ]
    evaluations = [
        *(  # those that recover go on for longer, and come first
            _evaluation(plan, arm, seed, model=str(plan.results().run(arm, seed).policy), after=(f"{arm}-{seed}",))
            for arm, seed in trained
        ),
        _evaluation(plan, WARM_START, 0, model=plan.start),
    ]
    before = [*trainings, *demonstrations, *evaluations]
    if plan.warm_start:
        before = [_warming(plan), *(_after_warming(job) for job in before)]
    names = tuple(job.name for job in before)
    return [*before, Job(name="summary", run=partial(_summarise, plan), log=_log(plan, "summary"), after=names)]


def _intention(plan: Quickstart) -> str:
    """What will be done, for a person, before it is."""
    sft, shown = _settings(plan, plan.warm_start).sft, len(plan.results().seeds_of(DEMONSTRATIONS))
    return (
        f"{plan.model} cannot call tools as it ships: first a warm start of {sft.steps} updates of {sft.batch} gold "
        f"dialogues; from there {len(plan.arms)} arms x {len(plan.seeds)} runs ({', '.join(plan.arms)}) and {shown} of "
        f"the demonstrations, each evaluated on {plan.size} episodes. It can be stopped: the same command goes on"
    )


def _require_whoever_pays(plan: Quickstart) -> None:
    """An arm that is matched in tokens needs the run that it is matched with."""
    for arm in plan.arms:
        if (payer := PAID_BY.get(arm, arm)) not in plan.arms:
            raise ConfigError(
                f"arm {arm} samples as many tokens as {payer} did, which is not among {', '.join(plan.arms)}; "
                f"add {payer} to --arms"
            )


def _require_same_plan(plan: Quickstart) -> None:
    """What lies in the folder is only reused for the same experiment; more arms and seeds may join it.

    Raises:
        ConfigError: the folder holds another one, or a `plan.json` that cannot be read.
    """
    path = plan.output / "plan.json"
    wanted = {
        **{"model": plan.model, "recipe": str(plan.recipe), "size": plan.size, "overrides": list(plan.overrides)},
        **{"heldout_seed": HELDOUT_SEED, "arms": ARMS_AS_OF},
        **({"warm_start": dict(plan.warm_start)} if plan.warm_start else {}),
    }
    if path.exists():
        found = read_json(path, remedy="restore it or choose another --output")
        if found != wanted:
            raise ConfigError(
                f"{plan.output} holds {found}, asked for {wanted}; choose another --output, or move {plan.output} aside"
            )
    write_text(path, json.dumps(wanted) + "\n")


def _warming(plan: Quickstart) -> Job:
    folder = plan.results().run(WARM_START, 0)
    run = partial(_warm_up, plan, str(folder.path), resume=folder.config.exists())
    return Job(name=f"{WARM_START}-0", run=run, log=_log(plan, f"{WARM_START}-0"), product=folder.policy)


def _after_warming(job: Job) -> Job:
    return replace(job, after=(*job.after, f"{WARM_START}-0"))


def _training(plan: Quickstart, arm: str, seed: int) -> Job:
    name, folder = f"{arm}-{seed}", plan.results().run(arm, seed)
    train = partial(_train, plan, arm, seed, resume=folder.config.exists())
    after = (f"{PAID_BY[arm]}-{seed}",) if arm in PAID_BY else ()
    return Job(name=name, run=train, log=_log(plan, name), product=folder.policy, after=after)


def _demonstration(plan: Quickstart, seed: int) -> Job:
    name, folder = f"{DEMONSTRATIONS}-{seed}", plan.results().run(DEMONSTRATIONS, seed)
    run = partial(_demonstrate, plan, str(folder.path), seed, resume=folder.config.exists())
    return Job(name=name, run=run, log=_log(plan, name), product=plan.results().demonstrated(seed))


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

    chosen = {"model": plan.start, "output": str(plan.results().run(arm, seed).path), "trainer.seed": seed}
    done = train(_settings(plan, chosen, Arm(arm), matched=_tokens_to_match(plan, arm, seed)), resume=resume)
    _say(done)
    if not done.finished:
        raise SystemExit(1)


def _tokens_to_match(plan: Quickstart, arm: str, seed: int) -> Mapping[str, int]:
    """The budget of an arm that samples as much as another one did."""
    if arm not in PAID_BY:
        return {}
    rows = read_jsonl(plan.results().run(PAID_BY[arm], seed).metrics)
    return {"trainer.sampled_tokens": round(sum(row["generate/sampled"] for row in rows))}


def _demonstrate(plan: Quickstart, folder: str, seed: int, *, resume: bool) -> None:
    chosen = {"model": plan.start, "output": folder, "sft.seed": seed, **DEMONSTRATED.get(plan.model, {})}
    done = _fine_tune(plan, chosen, resume=resume)
    shown = {"demonstrations": done.lessons.demonstrations, "clean": done.lessons.clean, "updates": done.step}
    write_text(plan.results().demonstrated(seed), json.dumps(shown) + "\n")


def _warm_up(plan: Quickstart, folder: str, *, resume: bool) -> None:
    from fission_grpo.report.sft_summary import write_sft_summary

    done = _fine_tune(plan, {"model": plan.model, "output": folder, **plan.warm_start}, resume=resume)
    write_sft_summary(done.folder, title=str(done.lessons))


def _fine_tune(plan: Quickstart, chosen: Mapping[str, Any], *, resume: bool) -> FineTunedRun:
    from fission_grpo.commands.sft import fine_tune

    done = fine_tune(_settings(plan, chosen), resume=resume)
    _say(done)
    if not done.finished:
        raise SystemExit(1)
    return done


def _evaluate(plan: Quickstart, model: str, folder: Path) -> None:
    from fission_grpo.commands.heldout import evaluate_heldout, tables
    from fission_grpo.tasks.synthesis.generator import Split

    settings = _settings(plan, {"model": model})
    asked: dict[str, Any] = {"split": Split.HELDOUT, "seed": HELDOUT_SEED, "size": plan.size}
    found = evaluate_heldout(settings, output=folder, resume=True, **asked)
    _say(tables(found, name=Path(model).name))


def _summarise(plan: Quickstart) -> None:
    from fission_grpo.commands.report import write_quickstart_report
    from fission_grpo.report.summary import ComparedArms, write_summary

    results = plan.results()
    compared = ComparedArms.read(results)
    write_summary(results, compared)
    write_quickstart_report(results, compared)


def _settings(
    plan: Quickstart, chosen: Mapping[str, Any], arm: Arm | None = None, *, matched: Mapping[str, int] | None = None
) -> RunSettings:
    """The recipe, what a job chooses, what the user wrote, what has to match another run, and the arm."""
    from fission_grpo.config import Setting, read_overrides
    from fission_grpo.recipes.resolve import resolve

    def by_job(values: Mapping[str, Any]) -> list[Setting]:
        return [Setting(key=tuple(name.split(".")), value=value, origin="quickstart") for name, value in values.items()]

    written = [*by_job(chosen), *read_overrides(plan.overrides), *by_job(matched or {})]
    return resolve(recipe=plan.recipe, arm=arm, written=written)


def _say(told: object) -> None:
    """Into the log of the job."""
    sys.stdout.write(f"{told}\n")
