"""`fission init`: where to begin with tools of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import Json, json_text


def init(
    folder: Annotated[Path, typer.Argument(help="Name of the project: a folder that is not there yet, or is empty.")],
    as_json: Json = False,
) -> None:
    """Write a small project that works: a world of tools, ten tasks, held-out ones, settings and a test."""
    from fission_grpo.commands.project import SETTINGS_FILE, write_project
    from fission_grpo.run.folder import quoted

    written = write_project(folder)
    if as_json:
        typer.echo(json_text({"folder": str(folder), "files": [str(file) for file in written]}))
        return
    typer.echo(f"{folder}: {', '.join(file.name for file in written)}\ngo on with:")
    typer.echo(f"  cd {quoted(folder)}")
    typer.echo(f"  fission data check --config {SETTINGS_FILE}")
