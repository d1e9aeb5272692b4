"""`fission export`: a trained policy as a model for everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import Json, json_text
from fission_grpo.errors import ConfigError


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run of `fission train`.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new folder; servers call it so.", show_default="RUN-export, beside it"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: fp32 or bf16.", show_default="that of the run")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the policy as one whole Hugging Face model, with card and the commands that serve it."""
    from fission_grpo.commands.export import export_policy
    from fission_grpo.models.catalog import Precision

    if dtype is not None and dtype not in list(Precision):
        raise ConfigError(f"unknown --dtype {dtype!r}; expected {', '.join(Precision)}")
    done = export_policy(run, output=output, precision=None if dtype is None else Precision(dtype))
    typer.echo(json_text(done.as_json()) if as_json else str(done))
