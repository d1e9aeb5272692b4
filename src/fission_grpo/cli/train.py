"""`fission train`, `fission sft` and `fission quickstart`: what is typed, and what is said at the end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fission_grpo.cli.options import (
    ConfigFile,
    Json,
    ModelName,
    NoTree,
    RecipeName,
    json_text,
    read_settings,
)
from fission_grpo.engines import Engine
from fission_grpo.errors import ConfigError
from fission_grpo.progress import speaks_for_all
from fission_grpo.recipes import OWN_RECIPE, Recipe
from fission_grpo.recipes.arms import Arm
from fission_grpo.run.interruption import INTERRUPTED

if TYPE_CHECKING:
    from fission_grpo.commands.dry_run import RunPlan
    from fission_grpo.commands.sft import FineTunedRun
    from fission_grpo.commands.sft_plan import SftPlan
    from fission_grpo.commands.train_trl import TrlPlan
    from fission_grpo.commands.train_verl import VerlPlan
    from fission_grpo.commands.trained_run import TrainedRun
    from fission_grpo.config import RunSettings


def train(
    ctx: typer.Context,
    config: ConfigFile = None,
    recipe: RecipeName = None,
    arm: Annotated[Arm | None, typer.Option(help="Change where the rollouts go; for comparisons.")] = None,
    model: ModelName = None,
    output: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run; the tasks stay the same.")] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Who makes the updates: our own loop, TRL's, or verl's.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Rehearse, print the plan, write nothing.")] = False,
    no_tree: NoTree = False,
    as_json: Json = False,
) -> None:
    """Train a policy with GRPO and fission. Ctrl-C saves. Without --recipe and --config, `nano` and
    `smollm2` take their own."""
    tree = False if no_tree else None
    flags = {"model": model, "output": output and str(output), "trainer.seed": seed, "trainer.tree": tree}
    flags |= {"engine.name": engine and engine.value}
    if resume and not (config or recipe):
        config = _config_of(output)
    if not (config or recipe):
        recipe = _own_recipe(read_settings(None, None, None, flags, ctx.args))
    settings = read_settings(recipe, config, arm, flags, ctx.args)
    if dry_run:
        _show_plan(settings, as_json)
        return
    from accelerate import PartialState

    from fission_grpo.commands.train import train as run

    done = run(settings, resume=resume)
    if PartialState().is_main_process:
        _conclude(done, as_json)
    raise typer.Exit(0 if done.finished else INTERRUPTED)


def sft(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="The run folder; the model comes to lie in its `policy`.")],
    model: ModelName = None,
    config: ConfigFile = None,
    recipe: RecipeName = None,
    messages: Annotated[
        Path | None, typer.Option(help="Conversations to learn in place of tasks: JSON Lines with `messages`.")
    ] = None,
    demonstrations: Annotated[
        int | None, typer.Option(help="Dialogues that show an error and its fix; 300 unless given.")
    ] = None,
    clean: Annotated[
        int | None, typer.Option(help="Gold dialogues without an error; nine for each of the others unless given.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="A file of the same kind, measured and not learned.")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates; 100 unless given.")] = None,
    passes: Annotated[float | None, typer.Option(help="Epochs, in place of steps: how often all is learned.")] = None,
    batch: Annotated[int | None, typer.Option(help="Dialogues in one update; 32 unless given.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; 1e-3 unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of errors, batches and rows held back.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try one update, print the plan, write nothing.")] = False,
    no_tree: NoTree = False,
    as_json: Json = False,
) -> None:
    """Fine-tune on right dialogues: of tasks, of errors with their fixes, or a file of conversations. Ctrl-C saves."""
    chosen = {
        **{"messages": messages and str(messages), "validation": validation and str(validation)},
        **{"demonstrations": demonstrations, "clean": clean, "steps": steps, "passes": passes},
        **{"batch": batch, "learning_rate": learning_rate, "seed": seed},
    }
    flags: dict[str, Any] = {"model": model, "output": str(output), "trainer.tree": False if no_tree else None}
    flags |= {f"sft.{name}": value for name, value in chosen.items()}
    if resume and not (config or recipe):
        config = _config_of(output)
    settings = read_settings(recipe, config, None, flags, ctx.args)
    if dry_run:
        from fission_grpo.commands.sft_plan import make_sft_plan

        _say_plan(make_sft_plan(settings), settings.saved_for_sft(), as_json)
        return
    from fission_grpo.commands.sft import fine_tune

    done = fine_tune(settings, resume=resume)
    _conclude_sft(done, as_json)
    raise typer.Exit(0 if done.finished else INTERRUPTED)


def quickstart(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/quickstart"),
    model: Annotated[str, typer.Option(help="nano, smollm2, or a Hugging Face folder.")] = "nano",
    recipe: Annotated[Recipe | None, typer.Option(help="What every arm starts from; the model's own, or nano.")] = None,
    arms: Annotated[str | None, typer.Option(help="Arms separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each arm; 8 unless given.")] = None,
    demonstrations: Annotated[int, typer.Option(min=1, help="Runs of the supervised demonstrations.")] = 2,
    size: Annotated[int, typer.Option(min=3, help="Held-out episodes, and items of each probe.")] = 200,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side.")] = None,
    no_tree: NoTree = False,
    as_json: Json = False,
) -> None:
    """Run the whole method on this machine: train GRPO and fission, evaluate and compare both. Can be continued."""
    chosen = tuple(dict.fromkeys(arms.split(","))) if arms else ()
    unknown = [arm for arm in chosen if arm not in list(Arm)]
    if unknown:
        raise ConfigError(f"unknown arm {unknown[0]!r}; expected some of {', '.join(Arm)}")
    from fission_grpo.commands.quickstart import DEFAULT_ARMS, SEEDS, Quickstart, run_quickstart

    plan = Quickstart(
        output=output,
        model=model,
        recipe=recipe or OWN_RECIPE.get(model, Recipe.NANO),
        arms=chosen or DEFAULT_ARMS,
        seeds=tuple(range(seeds or SEEDS)),
        demonstrations=demonstrations,
        size=size,
        overrides=(*ctx.args, *(["trainer.tree=false"] if no_tree else [])),
    )
    summary = run_quickstart(
        plan, workers=workers or os.cpu_count() or 1, report=lambda line: typer.echo(line, err=True)
    )
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


def _own_recipe(settings: RunSettings) -> Recipe | None:
    """What to start from where nobody said: told before anything is spent."""
    if own := OWN_RECIPE.get(settings.model):
        _say_once(f"no --recipe: {settings.model} starts from its own, as with --recipe {own}")
        return own
    trainer, contexts = settings.trainer, settings.fission.contexts
    method = f"GRPO with {contexts} corrective contexts a step" if contexts else "plain GRPO, no fission"
    what = "LoRA adapters" if settings.lora else "every weight"
    _say_once(
        f"no --recipe: {method}; {trainer.steps} updates of {what} at learning rate {trainer.learning_rate:g}, "
        f"{trainer.queries} tasks x {trainer.group_size} rollouts each, horizon {trainer.horizon}; "
        f"for Fission-GRPO add --recipe {' or --recipe '.join(Recipe)}"
    )
    return None


def _say_once(line: str) -> None:
    if speaks_for_all():
        typer.echo(line, err=True)


def _show_plan(settings: RunSettings, as_json: bool) -> None:
    from fission_grpo.commands.dry_run import make_plan
    from fission_grpo.commands.train import require_engine

    plan: RunPlan | TrlPlan | VerlPlan
    if settings.engine.name is Engine.TRL:
        require_engine(Engine.TRL)
        from fission_grpo.commands.train_trl import make_trl_plan

        plan = make_trl_plan(settings)
    elif settings.engine.name is Engine.VERL:
        require_engine(Engine.VERL)
        from fission_grpo.commands.train_verl import make_verl_plan

        plan = make_verl_plan(settings)
    else:
        plan = make_plan(settings)
    _say_plan(plan, settings.saved(), as_json)


def _say_plan(plan: RunPlan | TrlPlan | VerlPlan | SftPlan, settings: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json_text({"plan": asdict(plan), "settings": settings}))
    else:
        for line in plan.lines():
            typer.echo(line)


def _conclude(run: TrainedRun, as_json: bool) -> None:
    """What came of it, what is there now, and the next command."""
    from fission_grpo.report.run_summary import SUMMARY, write_run_summary
    from fission_grpo.run.folder import quoted

    summary = write_run_summary(run.folder) if run.finished else ""
    if as_json:
        reached = run.policy if run.finished else run.folder / "checkpoints"
        told = {"run": str(run.folder), "policy": str(reached), "step": run.step, "steps": run.settings.trainer.steps}
        shown = {"summary": str(run.folder / SUMMARY)} if summary else {}
        typer.echo(json_text({**told, "finished": run.finished, **shown}))
    elif run.finished:
        typer.echo(summary)
        typer.echo(f"{run}; evaluate it with: fission eval {_evaluation_of(run.settings)} --run {quoted(run.folder)}")
    else:
        typer.echo(str(run))


def _conclude_sft(run: FineTunedRun, as_json: bool) -> None:
    """What came of it, what is there now, and the next command."""
    from fission_grpo.report.sft_summary import write_sft_summary
    from fission_grpo.run.folder import quoted

    summary = write_sft_summary(run.folder, title=str(run.lessons)) if run.finished else ""
    if as_json:
        shown = {"demonstrations": run.lessons.demonstrations, "clean": run.lessons.clean}
        reached = run.policy if run.finished else run.folder / "checkpoints"
        told = {"run": str(run.folder), "policy": str(reached), "step": run.step, "steps": run.steps, **shown}
        losses = {"first_loss": run.metrics[0]["loss"], "last_loss": run.metrics[-1]["loss"]}
        typer.echo(json_text({**told, "rows": len(run.lessons.rows), "finished": run.finished, **losses}))
        return
    if summary:
        typer.echo(summary)
    typer.echo(f"{run}; train it with: fission train --model {quoted(run.policy)}" if run.finished else str(run))


def _evaluation_of(settings: RunSettings) -> str:
    """The command that plays tasks which the run has not seen; without such ones, those that it was trained on."""
    from fission_grpo.run.folder import RunFolder, quoted
    from fission_grpo.tasks.training_set import GIVEN, SYNTHETIC

    if settings.data == SYNTHETIC:
        return "heldout"
    if settings.heldout is not None:
        return "tasks"
    return f"tasks {quoted(RunFolder(settings.folder).tasks if settings.data == GIVEN else settings.data)}"
