"""`fission train`, `fission supervise` and `fission quickstart`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fission_grpo.cli.options import (
    INTERRUPTED,
    ConfigFile,
    Json,
    ModelName,
    NoTree,
    RecipeName,
    json_text,
    read_settings,
)
from fission_grpo.errors import ConfigError, FissionError
from fission_grpo.recipes.arms import Arm

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings
    from fission_grpo.training.trainer import StepReport, Trainer


def train(
    ctx: typer.Context,
    config: ConfigFile = None,
    recipe: RecipeName = None,
    arm: Annotated[Arm | None, typer.Option(help="Change where the rollouts go; for comparisons.")] = None,
    model: ModelName = None,
    output: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run; the tasks stay the same.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Rehearse, print the plan, write nothing.")] = False,
    no_tree: NoTree = False,
    as_json: Json = False,
) -> None:
    """Train a policy with GRPO and fission. Ctrl-C saves."""
    tree = False if no_tree else None
    flags = {"model": model, "output": output and str(output), "trainer.seed": seed, "trainer.tree": tree}
    if resume and not (config or recipe):
        config = _config_of(output)
    settings = read_settings(recipe, config, arm, flags, ctx.args)
    if dry_run:
        _show_plan(settings, as_json)
        return
    code = _run(settings, resume=resume, as_json=as_json)
    raise typer.Exit(code)


def supervise(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder for the policy.")],
    model: ModelName = None,
    config: ConfigFile = None,
    recipe: RecipeName = None,
    demonstrations: Annotated[int, typer.Option(min=1, help="Dialogues that show an error and its fix.")] = 300,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Peak.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of errors and batches.")] = 0,
    as_json: Json = False,
) -> None:
    """The strong simple baseline: supervised fine-tuning on a few error-and-fix demonstrations."""
    settings = read_settings(recipe, config, None, {"model": model}, ctx.args)
    from fission_grpo.assembly import demonstrate
    from fission_grpo.training.supervised import SupervisedSettings

    supervised = SupervisedSettings(seed=seed, steps=steps, learning_rate=learning_rate, tree=settings.trainer.tree)
    losses = demonstrate(settings, supervised, count=demonstrations, output=output)
    told = {"policy": str(output), "steps": steps, "first_loss": losses[0], "last_loss": losses[-1]}
    typer.echo(
        json_text(told) if as_json else f"policy in {output}; loss {losses[0]:.3f} -> {losses[-1]:.3f} nats a token"
    )


def quickstart(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/quickstart"),
    model: Annotated[str, typer.Option(help="nano, smollm2, or a Hugging Face folder.")] = "nano",
    arms: Annotated[str | None, typer.Option(help="Arms separated by commas.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 1,
    size: Annotated[int, typer.Option(min=3, help="Held-out episodes, and items of each probe.")] = 300,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side.")] = None,
    no_tree: NoTree = False,
    as_json: Json = False,
) -> None:
    """The whole method on this machine: train GRPO and fission, evaluate both, compare. Can be continued."""
    chosen = tuple(dict.fromkeys(arms.split(","))) if arms else ()
    unknown = [arm for arm in chosen if arm not in list(Arm)]
    if unknown:
        raise ConfigError(f"unknown arm {unknown[0]!r}; expected some of {', '.join(Arm)}")
    from fission_grpo.commands.quickstart import DEFAULT_ARMS, Plan, run

    plan = Plan(
        output=output,
        model=model,
        arms=chosen or DEFAULT_ARMS,
        seeds=tuple(range(seeds)),
        size=size,
        overrides=(*ctx.args, *(["trainer.tree=false"] if no_tree else [])),
    )
    summary = run(plan, workers=workers or os.cpu_count() or 1, report=lambda line: typer.echo(line, err=True))
    typer.echo(json_text({"summary": str(summary)}) if as_json else summary.read_text(encoding="utf-8"))


def _config_of(output: Path | None) -> Path:
    """The settings that a run folder was started with."""
    from fission_grpo.run.folder import RunFolder

    if output is None:
        raise ConfigError("--resume needs the run folder: add --output DIR (or the --recipe and --config of the run)")
    config = RunFolder(output).config
    if not config.exists():
        raise ConfigError(f"{output} holds no run to continue; leave out --resume, or correct --output")
    return config


def _show_plan(settings: RunSettings, as_json: bool) -> None:
    from fission_grpo.commands.dry_run import make_plan

    plan = make_plan(settings)
    if as_json:
        typer.echo(json_text({"plan": asdict(plan), "settings": settings.saved()}))
    else:
        for line in plan.lines():
            typer.echo(line)


def _run(settings: RunSettings, *, resume: bool, as_json: bool) -> int:
    """Train to the end or to the first Ctrl-C; returns the exit code."""
    from fission_grpo.assembly import agreed, assemble, open_run, save_policy
    from fission_grpo.run.folder import RunFolder
    from fission_grpo.run.interruption import Interruption

    RunFolder(settings.folder).check(settings.saved(), resume=resume)
    trainer = assemble(settings)
    open_run(trainer, settings, resume=resume)
    with _named(trainer), Interruption() as interruption, _reports(trainer) as report:
        trainer.train(stop=agreed(interruption, trainer.accelerator), report=report)
        # Of a finished run only: whoever finds `policy/` must be able to take it for the trained one.
        policy = save_policy(trainer) if trainer.finished else trainer.run.checkpoints
    _conclude(trainer, policy, as_json)
    return 0 if trainer.finished else INTERRUPTED


@contextmanager
def _named(trainer: Trainer) -> Iterator[None]:
    """Whatever breaks is told with the place where the rest is safe."""
    try:
        yield
    except (FissionError, OSError) as error:
        run = trainer.run.path
        error.add_note(f"the run so far is in {run}; continue with: fission train --resume --output {run}")
        raise


@contextmanager
def _reports(trainer: Trainer) -> Iterator[Any]:
    """Progress on the main process, silence on the others."""
    from fission_grpo.progress import progress

    if not trainer.accelerator.is_main_process:
        yield lambda report: None
        return
    with progress("train", total=trainer.settings.steps, done=trainer.progress.step) as show:
        yield lambda report: show(report.step, _remark(report))


def _remark(report: StepReport) -> str:
    shown = {"reward": "reward", "success": "success", "fission/success": "recovered", "update/entropy": "entropy"}
    return "  ".join(f"{word} {report.metrics[name]:.3f}" for name, word in shown.items() if name in report.metrics)


def _conclude(trainer: Trainer, policy: Path, as_json: bool) -> None:
    if not trainer.accelerator.is_main_process:
        return
    run, step, steps = trainer.run.path, trainer.progress.step, trainer.settings.steps
    if as_json:
        told = {"run": str(run), "policy": str(policy), "step": step, "steps": steps, "finished": step >= steps}
        typer.echo(json_text(told))
    elif step < steps:
        typer.echo(f"stopped after step {step} of {steps}; continue with: fission train --resume --output {run}")
    else:
        typer.echo(f"policy in {policy}; evaluate it with: fission eval heldout --run {run}")
