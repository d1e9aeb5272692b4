"""`fission simulator`: the Error Simulator's data, training and audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from fission_grpo.cli.options import OVERRIDES, Json, json_text, read_settings
from fission_grpo.errors import ConfigError

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings, Setting

simulator = typer.Typer(no_args_is_help=True, help="Make, train and audit Error Simulators.", rich_markup_mode=None)

Which: TypeAlias = Annotated[str, typer.Option(help="passthrough, static, rules, model or endpoint.")]
Records: TypeAlias = Annotated[Path, typer.Argument(help="A JSONL file of `fission simulator data`.")]

OWN_TASKS = "Your own tasks: data=FILE environments.NAME=PLACE"
SETTINGS = "With a model or a server: simulator_model.model=FOLDER, simulator_endpoint.server.url=URL ..."


@simulator.command(context_settings=OVERRIDES, epilog=f"{SETTINGS} {OWN_TASKS}")
def data(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file to write.")],
    runs: Annotated[list[Path] | None, typer.Option("--run", help="A run folder whose failures are used.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Records wanted.")] = 2000,
    teacher: Which = "rules",
    seed: Annotated[int, typer.Option(min=0, help="Seed of tasks and errors.")] = 0,
    as_json: Json = False,
) -> None:
    """Make records of failed calls with what their world really said; whole APIs are held out."""
    chosen = _choice(teacher, ctx.args)
    from fission_grpo.commands.simulator import make_records

    made = make_records(output, count=count, seed=seed, runs=runs or (), teacher=chosen)
    told = {"file": str(output), **made.plain()}
    typer.echo(json_text(told) if as_json else f"{made.records} records in {output}: {_counts(made.by_split)}")


@simulator.command(context_settings=OVERRIDES, epilog="Any setting of the training: epochs=3, lora.rank=16 ...")
def train(
    ctx: typer.Context,
    records: Records,
    output: Annotated[Path, typer.Option(help="Folder for the simulator.")],
    model: Annotated[str, typer.Option(help="fresh, nano, smollm2, or a Hugging Face folder.")] = "fresh",
    seed: Annotated[int, typer.Option(min=0, help="Seed of batches and adapters.")] = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a simulator on the training split of some records."""
    from fission_grpo.commands.simulator import finetune
    from fission_grpo.config import read_overrides, validated
    from fission_grpo.simulator_lab.finetune import SimulatorTrainingSettings

    given = {"model": model, "seed": seed, **_nested(read_overrides(list(ctx.args)))}
    settings = validated(SimulatorTrainingSettings, given)
    fit = finetune(records, settings, output=output, log=lambda line: typer.echo(line, err=True))
    said = f"simulator in {output}; loss {fit.loss:.3f} nats a token after {fit.steps} updates"
    typer.echo(json_text({**asdict(fit), "folder": str(output)}) if as_json else said)


@simulator.command(context_settings=OVERRIDES, epilog=SETTINGS)
def audit(
    ctx: typer.Context,
    records: Records,
    which: Annotated[str, typer.Option("--simulator", help="passthrough, static, rules, model or endpoint.")] = "rules",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    worldless: Annotated[bool, typer.Option("--worldless", help="Show no simulator what the world said.")] = False,
    as_json: Json = False,
) -> None:
    """Measure what a simulator says, leaks and costs; of a learned one, also what it wrote before any guard."""
    from fission_grpo.commands.simulator import audit_simulator
    from fission_grpo.simulator_lab.records import RecordSplit

    if split not in list(RecordSplit):
        raise ConfigError(f"unknown split {split!r}; expected {', '.join(RecordSplit)}")
    chosen = _choice(which, ctx.args)
    found = audit_simulator(records, chosen, split=RecordSplit(split), limit=limit, worldless=worldless)
    if as_json:
        typer.echo(json_text(found.plain()))
        return
    for name, value in found.table():
        typer.echo(f"{name:<32} {value}")


@simulator.command(name="try", context_settings=OVERRIDES, epilog=f"{SETTINGS} {OWN_TASKS}")
def try_(
    ctx: typer.Context,
    records: Annotated[Path | None, typer.Option(help="Take the failed call from this file.")] = None,
    index: Annotated[int, typer.Option(min=0, help="Which record of it.")] = 0,
    which: Annotated[str, typer.Option("--with", help="More simulators, by commas: model, endpoint.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the failed call, where no file is given.")] = 0,
) -> None:
    """Show one failed call, and what each simulator says about it, side by side."""
    chosen = [_choice(name.strip(), ctx.args) for name in which.split(",") if name.strip()]
    settings = read_settings(None, None, None, {}, ctx.args)
    from fission_grpo.commands.simulator import try_simulators

    more = [one.simulator for one in chosen]
    for line in try_simulators(records, settings, index=index, seed=seed, more=more):
        typer.echo(line)


def _choice(name: str, extra: list[str]) -> RunSettings:
    """Settings that choose a simulator by its name.

    Raises:
        ConfigError: no such simulator, or settings that cannot be.
    """
    return read_settings(None, None, None, {"simulator": name}, extra)


def _nested(settings: Iterable[Setting]) -> dict[str, Any]:
    """Dotted settings as nested values."""
    tree: dict[str, Any] = {}
    for setting in settings:
        *sections, name = setting.key
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = setting.value
    return tree


def _counts(by_name: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in by_name.items())
