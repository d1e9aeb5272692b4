"""`fission data`: task files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import FAILED, Json, json_text
from fission_grpo.errors import ConfigError

data = typer.Typer(no_args_is_help=True, help="Make and check task files.", rich_markup_mode=None)


@data.command()
def make(
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file to write.")],
    split: Annotated[str, typer.Option(help="train, validation or heldout.")] = "train",
    count: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    apis: Annotated[str, typer.Option(help="bfcl, office, or some APIs of one of them, separated by commas.")] = "bfcl",
    as_json: Json = False,
) -> None:
    """Synthesise tasks over the official BFCL classes or our own office; each has proved itself in its world."""
    from fission_grpo.commands.data import make_tasks
    from fission_grpo.tasks.synthesis.api_sets import expand_sets
    from fission_grpo.tasks.synthesis.generator import Split

    if split not in list(Split):
        raise ConfigError(f"unknown split {split!r}; expected {', '.join(Split)}")
    chosen = expand_sets([name.strip() for name in apis.split(",")])
    made = make_tasks(output, split=Split(split), count=count, seed=seed, apis=chosen)
    typer.echo(json_text(made.as_json()) if as_json else str(made))


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="A JSONL file of tasks, or of simulator records.")],
    against: Annotated[Path | None, typer.Option(help="Another task file that it must not overlap with.")] = None,
    as_json: Json = False,
) -> None:
    """Name every problem of a file at once, overlap with the official test entries included."""
    from fission_grpo.commands.data import check_file

    found = check_file(file, against=against)
    typer.echo(json_text(found.as_json()) if as_json else str(found))
    raise typer.Exit(FAILED if found.problems else 0)
