"""`fission eval tasks`: a policy on tasks of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.evaluate import AnyModel, ConfigOnTop, NoRunRecipe, Output, Resume, Run, Server, subject
from fission_grpo.cli.options import Json, apart, json_text, read_settings
from fission_grpo.errors import ConfigError


def eval_tasks(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="A JSONL file of tasks.", show_default="--data, or the setting heldout")
    ] = None,
    run: Run = None,
    model: AnyModel = None,
    output: Output = None,
    server: Server = None,
    config: ConfigOnTop = None,
    recipe: NoRunRecipe = None,
    no_probes: Annotated[
        bool, typer.Option("--no-probes", help="Inject no errors: faster, if tools are slow.")
    ] = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Play tasks of your own, greedily: success, first attempts and recovery, after injected errors too."""
    file, typed = apart(file, ctx.args)
    if run is None and model is None and config is not None:
        model = read_settings(recipe, config, None, {}, typed).model
    what = subject(run, model, output, folder="tasks")
    settings = what.settings(recipe, config, typed)
    from fission_grpo.commands.own_tasks import evaluate
    from fission_grpo.config import read_overrides, written_names

    named = settings.data if "data" in written_names(read_overrides(typed)) else settings.heldout
    tasks = file or (named and Path(named))
    if not tasks:
        raise ConfigError(
            "no tasks to play: give a FILE of tasks that were not trained on, or name one in the settings of the run "
            "(heldout=FILE)"
        )
    found = evaluate(
        settings.model,
        tasks=tasks,
        settings=settings,
        output=what.output,
        server=server,
        resume=resume,
        probes=not no_probes,
    )
    typer.echo(json_text(found.as_json()) if as_json else str(found))
    if run is not None and output is None and not as_json:
        _say_next(run, tasks)


def _say_next(run: Path, tasks: Path) -> None:
    """What shows the change: the same tasks with the weights that the run started from, then both side by side."""
    from fission_grpo.config import load_settings
    from fission_grpo.evaluation.heldout import COMPLETE
    from fission_grpo.run.folder import RunFolder, before, quoted

    first = before(run)
    if (first / COMPLETE).exists():
        typer.echo(f"compare with: fission compare {quoted(first)} {quoted(run)}", err=True)
        return
    model = load_settings(file=RunFolder(run).config).model
    again = f"fission eval tasks {quoted(tasks)} --run {quoted(run)} --model {quoted(model)} --output {quoted(first)}"
    typer.echo(f"before training it was: {again}", err=True)
