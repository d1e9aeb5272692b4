"""`fission eval tasks`: a policy on tasks of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import ConfigFile, Json, RecipeName, json_text, read_settings
from fission_grpo.errors import ConfigError


def eval_tasks(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A JSONL file of tasks.")],
    run: Annotated[Path | None, typer.Option(help="A run folder: its policy, by its own settings.")] = None,
    model: Annotated[str | None, typer.Option(help="Or nano, smollm2, or a Hugging Face folder.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the records; `fission compare` reads it.")] = None,
    config: ConfigFile = None,
    recipe: RecipeName = None,
    as_json: Json = False,
) -> None:
    """Play tasks of your own, greedily: success, first attempts and recovery, with counts and intervals."""
    if (run is None) == (model is None):
        raise ConfigError("expected either --run RUN or --model MODEL; give one of them")
    if run is not None:
        if config or recipe:
            raise ConfigError("--run brings the settings of the run along; leave out --config and --recipe")
        config = run / "config.yaml"
    settings = read_settings(recipe, config, None, {"model": model}, ctx.args)
    from fission_grpo.commands.own_tasks import evaluate

    found = evaluate(run or settings.model, tasks=file, settings=settings)
    if output is not None:
        found.save(output)
    typer.echo(json_text(found.as_json()) if as_json else str(found))
