"""The command `fission`: parse, build, call. What costs time to import is imported by the command that needs it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperGroup

from fission_grpo.errors import ConfigError, DataError, FissionError
from fission_grpo.recipes import Recipe, load_recipe
from fission_grpo.recipes.arms import Arm, apply_arm

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings, Setting
    from fission_grpo.trainer import StepReport, Trainer

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0: something broke or was found wanting; the user can correct it; stopped by Ctrl-C."""

OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of commands that take settings: what is no option of theirs is one."""


class _Commands(TyperGroup):
    """Our errors are messages, never tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (FissionError, OSError) as error:
            for line in (str(error), *getattr(error, "__notes__", ())):
                typer.echo(f"fission: {line}", err=True)
            raise typer.Exit(WRONG_INPUT if isinstance(error, ConfigError) else FAILED) from error


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
data = typer.Typer(no_args_is_help=True, help="Make and check task files.", rich_markup_mode=None)
app.add_typer(data, name="data")

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
ModelName: TypeAlias = Annotated[str | None, typer.Option(help="nano, smollm2, or a Hugging Face folder.")]
RecipeName: TypeAlias = Annotated[Recipe | None, typer.Option(help="Settings to start from.")]
ConfigFile: TypeAlias = Annotated[Path | None, typer.Option(help="YAML file that changes the recipe.")]


QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""Models come from this machine, and progress is ours to show; a user's own values win."""


@app.callback()
def fission() -> None:
    """Teach small tool-calling models to recover from tool errors (Fission-GRPO, arXiv:2601.15625)."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@app.command(context_settings=OVERRIDES, epilog="Any setting: trainer.steps=10, or --trainer.steps 10.")
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
    as_json: Json = False,
) -> None:
    """Train a policy with GRPO and fission. Ctrl-C saves."""
    flags = {"model": model, "output": output and str(output), "trainer.seed": seed}
    if resume and not (config or recipe):
        config = _config_of(output)
    settings = _settings(recipe, config, arm, flags, ctx.args)
    if dry_run:
        _show_plan(settings, as_json)
        return
    code = _run(settings, resume=resume, as_json=as_json)
    raise typer.Exit(code)


@app.command(name="eval", context_settings=OVERRIDES, epilog="Any setting of `fission train` that concerns tasks.")
def evaluate(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="nano, smollm2, or a Hugging Face folder.")],
    output: Annotated[Path, typer.Option(help="Folder for the records, one JSONL file for each part.")],
    config: ConfigFile = None,
    recipe: RecipeName = None,
    size: Annotated[int, typer.Option(min=3, help="Episodes, and items of each probe.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the held-out tasks.")] = 0,
    validation: Annotated[
        bool, typer.Option("--validation", help="Use the validation split: to choose settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play held-out episodes and fixed-error probes for real, and say how the policy copes with errors."""
    settings = _settings(recipe, config, None, {"model": model}, ctx.args)
    from fission_grpo.evaluation.command import evaluate_model, rates, tables
    from fission_grpo.tasks.synthesis import Split

    split = Split.VALIDATION if validation else Split.HELDOUT
    found = evaluate_model(settings, split=split, seed=seed, size=size)
    found.save(output)
    typer.echo(_json(rates(found)) if as_json else tables(found, name=Path(model).name))


@app.command(context_settings=OVERRIDES)
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
    settings = _settings(recipe, config, None, {"model": model}, ctx.args)
    from fission_grpo.assembly import demonstrate
    from fission_grpo.supervised import SupervisedSettings

    supervised = SupervisedSettings(seed=seed, steps=steps, learning_rate=learning_rate)
    losses = demonstrate(settings, supervised, count=demonstrations, output=output)
    told = {"policy": str(output), "steps": steps, "first_loss": losses[0], "last_loss": losses[-1]}
    typer.echo(_json(told) if as_json else f"policy in {output}; loss {losses[0]:.3f} -> {losses[-1]:.3f} nats a token")


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="nano, smollm2, or a Hugging Face folder.")],
    chat_template: Annotated[str | None, typer.Option(help="hermes, nano, or a Jinja file.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether a model's chat template is safe for training on tool dialogues, and why."""
    from fission_grpo.doctor import Status, diagnose
    from fission_grpo.models.catalog import load_tokenizer

    findings = diagnose(load_tokenizer(model, chat_template=chat_template))
    unsafe = any(finding.status is Status.FAIL for finding in findings)
    if as_json:
        typer.echo(_json({"model": model, "safe": not unsafe, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            typer.echo(f"{finding.status.value:<4}  {finding.name:<18} {finding.why}")
            if finding.remedy:
                typer.echo(f"{'':<25}-> {finding.remedy}")
        typer.echo(f"{model}: {'not safe to train' if unsafe else 'safe to train'}")
    raise typer.Exit(FAILED if unsafe else 0)


@app.command(context_settings=OVERRIDES, epilog="Any setting of `fission train` goes to every arm.")
def quickstart(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/quickstart"),
    model: Annotated[str, typer.Option(help="nano, smollm2, or a Hugging Face folder.")] = "nano",
    arms: Annotated[str | None, typer.Option(help="Arms separated by commas.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 1,
    size: Annotated[int, typer.Option(min=3, help="Held-out episodes, and items of each probe.")] = 300,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes side by side.")] = None,
    as_json: Json = False,
) -> None:
    """The whole method on this machine: train GRPO and fission, evaluate both, compare. Can be continued."""
    chosen = tuple(dict.fromkeys(arms.split(","))) if arms else ()
    unknown = [arm for arm in chosen if arm not in list(Arm)]
    if unknown:
        raise ConfigError(f"unknown arm {unknown[0]!r}; expected some of {', '.join(Arm)}")
    from fission_grpo.quickstart import DEFAULT_ARMS, Plan, run

    plan = Plan(
        output=output,
        model=model,
        arms=chosen or DEFAULT_ARMS,
        seeds=tuple(range(seeds)),
        size=size,
        overrides=tuple(ctx.args),
    )
    summary = run(plan, workers=workers or os.cpu_count() or 1, report=lambda line: typer.echo(line, err=True))
    typer.echo(_json({"summary": str(summary)}) if as_json else summary.read_text(encoding="utf-8"))


@data.command()
def make(
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file to write.")],
    split: Annotated[str, typer.Option(help="train, validation or heldout.")] = "train",
    count: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    apis: Annotated[str | None, typer.Option(help="Official classes, separated by commas.")] = None,
    as_json: Json = False,
) -> None:
    """Synthesise tasks over the official BFCL classes; every one has proved itself in its world."""
    from fission_grpo.tasks.families import SEEN_APIS
    from fission_grpo.tasks.jsonl import write_tasks
    from fission_grpo.tasks.synthesis import Split, synthesise

    if split not in list(Split):
        raise ConfigError(f"unknown split {split!r}; expected {', '.join(Split)}")
    chosen = tuple(name.strip() for name in apis.split(",")) if apis else SEEN_APIS
    tasks = synthesise(seed, count, apis=chosen, split=split)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_tasks(output, tasks)
    hidden = sum(bool(task.meta["hidden"]) for task in tasks)
    told = {"file": str(output), "tasks": len(tasks), "hidden_precondition": hidden, "split": split, "seed": seed}
    typer.echo(_json(told) if as_json else f"{len(tasks)} tasks in {output}, {hidden} with a hidden precondition")


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="The JSONL file.")],
    against: Annotated[Path | None, typer.Option(help="Another task file that it must not overlap with.")] = None,
    as_json: Json = False,
) -> None:
    """Name every problem of a task file at once, overlap with the official test entries included."""
    from fission_grpo.tasks.jsonl import read_tasks
    from fission_grpo.tasks.overlap import Offence, official_overlap, overlap

    problems: list[str] = []
    shared: list[Offence] = []
    tasks = []
    try:
        tasks = read_tasks(file)
        shared = official_overlap(tasks)
        shared += overlap(tasks, read_tasks(against)) if against else []
    except DataError as error:
        problems = [f"{error.path}: {problem}" for problem in error.problems]
    problems += [f"{file}: {offence}" for offence in shared]
    if as_json:
        typer.echo(_json({"file": str(file), "ok": not problems, "tasks": len(tasks), "problems": problems}))
    else:
        for problem in problems:
            typer.echo(problem)
        typer.echo(f"{len(problems)} problem(s)" if problems else f"{file}: {len(tasks)} tasks, no problems")
    raise typer.Exit(FAILED if problems else 0)


def main() -> None:
    """Entry point of the command."""
    app()


def _settings(
    recipe: Recipe | None, config: Path | None, arm: Arm | None, flags: Mapping[str, Any], extra: Iterable[str]
) -> RunSettings:
    """Recipe, then file, then command line, then arm; the run folder is named after them unless it has a name."""
    from fission_grpo.config import load_settings, read_overrides

    base = load_recipe(recipe) if recipe else None
    given = [*_flagged(flags), *read_overrides(list(extra))]
    settings = load_settings(base=base, file=config, overrides=given)
    if arm is not None:
        settings = apply_arm(arm, settings)
    if settings.output is None:
        parts = (config.stem if config else recipe or "run", arm or "train", f"seed{settings.trainer.seed}")
        settings = settings.model_copy(update={"output": f"runs/{'-'.join(parts)}"})
    return settings


def _flagged(flags: Mapping[str, Any]) -> Iterator[Setting]:
    from fission_grpo.config import Setting

    for name, value in flags.items():
        if value is not None:
            yield Setting(key=tuple(name.split(".")), value=value, origin=f"--{name.rpartition('.')[2]}")


def _config_of(output: Path | None) -> Path:
    """The settings that a run folder was started with."""
    from fission_grpo.run_folder import RunFolder

    if output is None:
        raise ConfigError("--resume needs the run folder: add --output DIR (or the --recipe and --config of the run)")
    config = RunFolder(output).config
    if not config.exists():
        raise ConfigError(f"{output} holds no run to continue; leave out --resume, or correct --output")
    return config


def _show_plan(settings: RunSettings, as_json: bool) -> None:
    from fission_grpo.plan import make_plan

    plan = make_plan(settings)
    if as_json:
        typer.echo(_json({"plan": asdict(plan), "settings": settings.saved()}))
    else:
        for line in plan.lines():
            typer.echo(line)


def _run(settings: RunSettings, *, resume: bool, as_json: bool) -> int:
    """Train to the end or to the first Ctrl-C; returns the exit code."""
    from fission_grpo.assembly import agreed, assemble, open_run, save_policy
    from fission_grpo.interruption import Interruption
    from fission_grpo.run_folder import RunFolder

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
        typer.echo(_json(told))
    elif step < steps:
        typer.echo(f"stopped after step {step} of {steps}; continue with: fission train --resume --output {run}")
    else:
        typer.echo(f"policy in {policy}; evaluate it with: fission eval --model {policy} --output {run / 'evaluation'}")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    main()
