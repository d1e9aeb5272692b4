"""`fission install-benchmarks`."""

from __future__ import annotations

from typing import Annotated

import typer

from fission_grpo.errors import ConfigError


def install_benchmarks(
    names: Annotated[list[str] | None, typer.Argument(help="bfcl, tau2, smollm2; all three by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and run nothing.")] = False,
) -> None:
    """Install the official benchmarks and SmolLM2 at the releases that were tested, with pip of this Python."""
    from fission_grpo.commands.benchmarks import Benchmark, install, pip_commands, shown

    if unknown := set(names or ()) - set(Benchmark):
        raise ConfigError(f"unknown benchmark {min(unknown)!r}; expected {', '.join(Benchmark)}")
    chosen = [one for one in Benchmark if not names or one in names]
    if dry_run:
        for command in pip_commands(chosen):
            typer.echo(shown(command))
    else:
        install(chosen)
