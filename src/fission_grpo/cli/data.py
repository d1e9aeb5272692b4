"""`fission data`: task files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fission_grpo.cli.options import FAILED, OVERRIDES, ConfigFile, Json, apart, json_text, read_settings
from fission_grpo.errors import ConfigError

data = typer.Typer(no_args_is_help=True, help="Make, convert and check task files.", rich_markup_mode=None)


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


@data.command(context_settings=OVERRIDES, epilog="Settings that name your worlds: environments.shop=shop:Shop ...")
def convert(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A .jsonl, .json or .parquet file, or owner/name[:file] on the Hub.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file of tasks to write.")],
    form: Annotated[str | None, typer.Option("--from", help="The form of the rows.", show_default="recognised")] = None,
    as_json: Json = False,
) -> None:
    """Make tasks of rows of TRL, the Hub, ToolACE, xLAM, verl, SkyRL or BFCL; says what was left out, and why."""
    from fission_grpo.assembly import ENVIRONMENTS, with_own_environments
    from fission_grpo.commands.data import convert_file
    from fission_grpo.run.folder import quoted
    from fission_grpo.tasks.convert.forms import FORMS

    if form is not None and form not in FORMS:
        raise ConfigError(f"unknown form {form!r}; expected one of {', '.join(FORMS)}")
    known = with_own_environments(ENVIRONMENTS, read_settings(None, None, None, {}, ctx.args).environments)
    made = convert_file(source, output, form=form, environments=known)
    if as_json:
        typer.echo(json_text(made.as_json()))
        return
    for one in made.conversion.left_out:
        typer.echo(str(one), err=True)
    typer.echo(f"{made}\ncheck it: fission data check {quoted(output)}")


@data.command(context_settings=OVERRIDES, epilog="Settings that name your worlds: environments.shop=shop:Shop ...")
def check(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="A JSONL file of tasks, or of simulator records.", show_default="of --config")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Another task file that it must not overlap with.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Name every problem at once: of a file, or of all that --config names, held-out tasks and worlds included."""
    from fission_grpo.assembly import ENVIRONMENTS, with_own_environments
    from fission_grpo.commands.data import check_file, check_project
    from fission_grpo.run.folder import before, quoted

    file, typed = apart(file, ctx.args)
    settings = read_settings(None, config, None, {}, typed)
    if file is None:
        found = check_project(settings)
        told: dict[str, Any] = {"ok": not any(one.problems for one in found), "files": [one.as_json() for one in found]}
    else:
        known = with_own_environments(ENVIRONMENTS, settings.environments)
        found = (check_file(file, against=against, environments=known),)
        told = found[0].as_json()
    typer.echo(json_text(told) if as_json else "\n".join(map(str, found)))
    if told["ok"] and config and file is None and not as_json:
        named = f"--config {quoted(config)}"
        if settings.heldout:
            output = quoted(before(settings.folder))
            typer.echo(f"see what the model can by now: fission eval tasks {named} --output {output}")
        typer.echo(f"train it: fission train {named}")
    raise typer.Exit(0 if told["ok"] else FAILED)
