"""`fission view`: a run in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(run: Annotated[Path, typer.Argument(help="The folder of a run of `fission train`, finished or not.")]) -> None:
    """Read trajectories and fission trees in the terminal, while a run trains or later; ? lists the keys."""
    from fission_grpo.commands.view import open_viewer

    open_viewer(run)
