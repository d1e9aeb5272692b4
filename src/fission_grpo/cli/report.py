"""`fission report`: one page that opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import Json, json_text


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A run, an evaluation or a quickstart; several are compared with the first.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    samples: Annotated[int, typer.Option(min=0, help="Most trajectories and episodes that can be read on it.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of those that are drawn.")] = 0,
    as_json: Json = False,
) -> None:
    """Make one page of runs: verdict, curves, errors, fission trees, samples, cost. It needs no network."""
    from fission_grpo.commands.report import write_report

    written = write_report(runs, output, samples=samples, seed=seed)
    typer.echo(json_text(written.to_json()) if as_json else str(written))
