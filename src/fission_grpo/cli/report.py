"""`fission report`: one page that opens anywhere; `fission explain`: one trajectory."""

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


def explain(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.")],
    trace: Annotated[
        str | None, typer.Argument(help="GROUP:PLACE, for instance 12/exploration/0.3:2; GROUP for all of it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one trajectory: its reward to the last digit, baseline and advantage, failure, feedback, what was masked."""
    from fission_grpo.report.explain import explain_trace, groups_of_last_step

    if trace is None:
        lines = groups_of_last_step(run)
        typer.echo(json_text(lines) if as_json else "\n".join([*lines, "explain one: fission explain RUN GROUP:PLACE"]))
        return
    found = explain_trace(run, trace)
    typer.echo(json_text([one.as_json() for one in found]) if as_json else "\n\n".join(map(str, found)))
