"""The command `fission`: parse, build, call. What costs time to import is imported by the command that needs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fission_grpo.cli.benchmarks import install_benchmarks
from fission_grpo.cli.data import data
from fission_grpo.cli.doctor import doctor
from fission_grpo.cli.evaluate import compare, evaluation
from fission_grpo.cli.export import export
from fission_grpo.cli.options import FAILED, OVERRIDES, WRONG_INPUT
from fission_grpo.cli.own_tasks import eval_tasks
from fission_grpo.cli.project import init
from fission_grpo.cli.report import explain, report
from fission_grpo.cli.reproduce import reproduce
from fission_grpo.cli.simulator import simulator
from fission_grpo.cli.train import quickstart, sft, train
from fission_grpo.cli.view import view
from fission_grpo.errors import ConfigError, FissionError, message_lines
from fission_grpo.run.interruption import INTERRUPTED, heed_termination


class _Commands(TyperGroup):
    """Our errors are messages, never tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("fission: stopped; what is finished is kept", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (FissionError, OSError) as error:
            for line in message_lines(error):
                typer.echo(f"fission: {line}", err=True)
            raise typer.Exit(WRONG_INPUT if isinstance(error, ConfigError) else FAILED) from error


app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

QUIET_LIBRARIES = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""Models come from this machine, and progress is ours to show; a user's own values win."""

NEEDED_FIRST = ("quickstart", "init", "train", "eval", "compare", "report", "doctor")
"""What `fission` alone shows: see the method work, begin with tools of one's own, train, measure, compare, look, and
find out whether a model fits."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from fission_grpo import __version__

        typer.echo(f"fission-grpo {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def fission(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Teach small tool-calling models to recover from tool errors (Fission-GRPO, arXiv:2601.15625)."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    if ctx.invoked_subcommand is None:
        for line in _first_words(ctx):
            typer.echo(line)


def _first_words(ctx: typer.Context) -> Iterator[str]:
    yield str(ctx.command.help)
    yield ""
    commands: dict[str, Any] = ctx.command.commands  # type: ignore[attr-defined]  # it is a group
    for name in NEEDED_FIRST:
        yield f"  fission {name:<11} {commands[name].get_short_help_str(limit=120)}"
    yield ""
    yield "fission COMMAND --help says how; fission --help shows all commands."


app.command(context_settings=OVERRIDES, epilog="Any setting of `fission train` goes to every arm.")(quickstart)
app.command()(init)
app.command(context_settings=OVERRIDES, epilog="Any setting: trainer.steps=10, or --trainer.steps 10.")(train)
app.command(context_settings=OVERRIDES, epilog="Any setting: lora.rank=16, or --sft.warmup 0.1.")(sft)
evaluation.command(name="tasks", context_settings=OVERRIDES)(eval_tasks)
app.add_typer(evaluation, name="eval")
app.command()(compare)
app.command()(report)
app.command()(explain)
app.command()(view)
app.command()(reproduce)
app.command()(export)
app.command()(doctor)
app.command()(install_benchmarks)
app.add_typer(data, name="data")
app.add_typer(simulator, name="simulator")


def main() -> None:
    """Entry point of the command."""
    heed_termination()
    app()
