"""`fission reproduce`: a run, once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import FAILED, Json, json_text
from fission_grpo.run.interruption import INTERRUPTED


def reproduce(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `fission train`.")],
    output: Annotated[
        Path | None, typer.Option(help="Where it is repeated.", show_default="RUN-reproduced, beside it")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a run again with its own settings, and say whether the curves are equal. Ctrl-C compares what there is."""
    from accelerate import PartialState

    from fission_grpo.commands.reproduce import reproduce as repeat

    found = repeat(run, output=output)
    if PartialState().is_main_process:
        typer.echo(json_text(found.as_json()) if as_json else str(found))
    if not found.finished:
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(0 if found.curves.equal else FAILED)
