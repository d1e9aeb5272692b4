"""The command `fission`: parse, build, call. What costs time to import is imported by the command that needs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from fission_grpo.cli.benchmarks import install_benchmarks
from fission_grpo.cli.data import data
from fission_grpo.cli.doctor import doctor
from fission_grpo.cli.evaluate import compare, evaluation
from fission_grpo.cli.options import FAILED, OVERRIDES, WRONG_INPUT
from fission_grpo.cli.simulator import simulator
from fission_grpo.cli.train import quickstart, supervise, train
from fission_grpo.errors import ConfigError, FissionError


class _Commands(TyperGroup):
    """Our errors are messages, never tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (FissionError, OSError) as error:
            for line in (str(error), *getattr(error, "__notes__", ())):
                typer.echo(f"fission: {line}", err=True)
            raise typer.Exit(WRONG_INPUT if isinstance(error, ConfigError) else FAILED) from error


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

QUIET_LIBRARIES = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""Models come from this machine, and progress is ours to show; a user's own values win."""


@app.callback()
def fission() -> None:
    """Teach small tool-calling models to recover from tool errors (Fission-GRPO, arXiv:2601.15625)."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)


app.command(context_settings=OVERRIDES, epilog="Any setting of `fission train` goes to every arm.")(quickstart)
app.command(context_settings=OVERRIDES, epilog="Any setting: trainer.steps=10, or --trainer.steps 10.")(train)
app.command(context_settings=OVERRIDES)(supervise)
app.add_typer(evaluation, name="eval")
app.command()(compare)
app.command()(doctor)
app.command()(install_benchmarks)
app.add_typer(data, name="data")
app.add_typer(simulator, name="simulator")


def main() -> None:
    """Entry point of the command."""
    app()


def run_command(arguments: Sequence[str]) -> None:
    """One command inside a process that has more to do.

    Raises:
        SystemExit: it failed, with its exit code.
    """
    if code := app(list(arguments), standalone_mode=False):
        raise SystemExit(code)
