"""`fission eval tasks`: a policy on tasks of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.evaluate import AnyModel, ConfigOnTop, NoRunRecipe, Output, Resume, Run, Server, subject
from fission_grpo.cli.options import Json, json_text


def eval_tasks(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A JSONL file of tasks.")],
    run: Run = None,
    model: AnyModel = None,
    output: Output = None,
    server: Server = None,
    config: ConfigOnTop = None,
    recipe: NoRunRecipe = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Play tasks of your own, greedily: success, first attempts and recovery, with counts and intervals."""
    what = subject(run, model, output, folder="tasks")
    settings = what.settings(recipe, config, ctx.args)
    from fission_grpo.commands.own_tasks import evaluate

    found = evaluate(settings.model, tasks=file, settings=settings, output=what.output, server=server, resume=resume)
    typer.echo(json_text(found.as_json()) if as_json else str(found))
