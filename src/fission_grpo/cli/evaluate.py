"""`fission eval`: how a policy copes with errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import OVERRIDES, ConfigFile, Json, RecipeName, json_text, read_settings

evaluation = typer.Typer(no_args_is_help=True, help="Evaluate a policy.", rich_markup_mode=None)


@evaluation.command(context_settings=OVERRIDES, epilog="Any setting of `fission train` that concerns tasks.")
def heldout(
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
    settings = read_settings(recipe, config, None, {"model": model}, ctx.args)
    from fission_grpo.evaluation.command import evaluate_model, rates, tables
    from fission_grpo.tasks.synthesis import Split

    split = Split.VALIDATION if validation else Split.HELDOUT
    found = evaluate_model(settings, split=split, seed=seed, size=size)
    found.save(output)
    typer.echo(json_text(rates(found)) if as_json else tables(found, name=Path(model).name))
