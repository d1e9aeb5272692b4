"""`fission simulator`: the Error Simulator's data, training and audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from fission_grpo.cli.options import OVERRIDES, Json, json_text, read_settings
from fission_grpo.errors import ConfigError

if TYPE_CHECKING:
    from fission_grpo.simulator.base import ErrorSimulator, ReferencedSimulator

simulator = typer.Typer(no_args_is_help=True, help="Make, train and audit Error Simulators.", rich_markup_mode=None)

Which: TypeAlias = Annotated[str, typer.Option(help="passthrough, static, rules, model or endpoint.")]
Records: TypeAlias = Annotated[Path, typer.Argument(help="A JSONL file of `fission simulator data`.")]

SETTINGS = "With a model or a server: simulator_model.model=FOLDER, simulator_endpoint.server.url=URL ..."


@simulator.command(context_settings=OVERRIDES, epilog=SETTINGS)
def data(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file to write.")],
    runs: Annotated[list[Path] | None, typer.Option("--run", help="A run folder whose failures are used.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Records wanted.")] = 2000,
    teacher: Which = "rules",
    seed: Annotated[int, typer.Option(help="Seed of tasks and errors.")] = 0,
    as_json: Json = False,
) -> None:
    """Make records of failed calls with what their world really said; whole APIs are held out."""
    chosen = _simulator(teacher, ctx.args)
    from fission_grpo.progress import progress
    from fission_grpo.simulator_lab.corpus import RecordSettings, simulator_records
    from fission_grpo.simulator_lab.records import write_simulator_records

    settings = RecordSettings(seed=seed, count=count)
    with progress("records", total=len(settings.apis) + len(runs or ())) as show:
        records, counted = simulator_records(settings, runs=runs or (), teacher=chosen, progress=show)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_simulator_records(output, records)
    told = {"file": str(output), **counted.plain()}
    typer.echo(json_text(told) if as_json else f"{counted.records} records in {output}: {_counts(counted.by_split)}")


@simulator.command(context_settings=OVERRIDES, epilog="Any setting of the training: epochs=3, lora.rank=16 ...")
def train(
    ctx: typer.Context,
    records: Records,
    output: Annotated[Path, typer.Option(help="Folder for the simulator.")],
    model: Annotated[str, typer.Option(help="fresh, nano, smollm2, or a Hugging Face folder.")] = "fresh",
    seed: Annotated[int, typer.Option(help="Seed of batches and adapters.")] = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune a simulator on the training split of some records."""
    from fission_grpo.config import read_overrides
    from fission_grpo.progress import progress
    from fission_grpo.simulator_lab.finetune import SimulatorTrainingSettings, train_simulator
    from fission_grpo.simulator_lab.records import read_simulator_records

    given = {"model": model, "seed": seed, **_nested(read_overrides(list(ctx.args)))}
    settings = _validated(SimulatorTrainingSettings, given)
    with ExitStack() as shown:
        shows: list[Callable[[int, str], None]] = []

        def show(step: int, steps: int, loss: float) -> None:
            if not shows:  # only now is it known how many steps there are
                shows.append(shown.enter_context(progress("simulator", total=steps)))
            shows[0](step, f"loss {loss:.3f}")

        fit = train_simulator(
            read_simulator_records(records),
            settings,
            output,
            progress=show,
            log=lambda line: typer.echo(line, err=True),
        )
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
    """Measure what a simulator says, leaks and costs; of a learned one, also what it drafted before any guard."""
    from fission_grpo.progress import progress
    from fission_grpo.simulator_lab.audit import audit as measure
    from fission_grpo.simulator_lab.records import RecordSplit, read_simulator_records

    if split not in list(RecordSplit):
        raise ConfigError(f"unknown split {split!r}; expected {', '.join(RecordSplit)}")
    asked = read_simulator_records(records, split=RecordSplit(split))[:limit]
    if not asked:
        raise ConfigError(f"{records} has no record of split {split}")
    chosen = _simulator(which, ctx.args)
    with progress("audit", total=len(asked)) as show:
        found = measure(chosen, asked, worldless=worldless, progress=show)
    if as_json:
        typer.echo(json_text(found.plain()))
        return
    for name, value in found.table():
        typer.echo(f"{name:<32} {value}")


@simulator.command(name="try", context_settings=OVERRIDES, epilog=SETTINGS)
def try_(
    ctx: typer.Context,
    records: Annotated[Path | None, typer.Option(help="Take the failed call from this file.")] = None,
    index: Annotated[int, typer.Option(min=0, help="Which record of it.")] = 0,
    which: Annotated[str, typer.Option("--with", help="More simulators, by commas: model, endpoint.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the failed call, where no file is given.")] = 0,
) -> None:
    """Show one failed call, and what each simulator says about it, side by side."""
    from fission_grpo.simulator_lab.records import read_simulator_records
    from fission_grpo.simulator_lab.side_by_side import FREE, sample_record, side_by_side

    if records is None:
        record = sample_record(seed)
    else:
        held = read_simulator_records(records)
        if index >= len(held):
            raise ConfigError(f"{records} has {len(held)} records; --index {index} is none of them")
        record = held[index]
    more = [_simulator(name.strip(), ctx.args) for name in which.split(",") if name.strip()]
    case = record.case()
    typer.echo(f"failed: {case.failed.text}")
    for trial in side_by_side(case, (*FREE, *more)):
        for line in trial.lines():
            typer.echo(line)


def _simulator(name: str, extra: list[str]) -> ErrorSimulator | ReferencedSimulator:
    """The simulator that some settings choose.

    Raises:
        ConfigError: no such simulator, model or server.
    """
    from fission_grpo.assembly import SIMULATORS

    settings = read_settings(None, None, None, {"simulator": name}, extra)
    return SIMULATORS[settings.simulator](settings)


def _nested(settings: Any) -> dict[str, Any]:
    """Dotted settings as nested values."""
    tree: dict[str, Any] = {}
    for setting in settings:
        *sections, name = setting.key
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = setting.value
    return tree


def _validated(kind: Any, values: Mapping[str, Any]) -> Any:
    """Settings of one kind from plain values.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    raise ConfigError("; ".join(problems) + f"; expected some of {', '.join(kind.model_fields)}")


def _counts(by_name: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in by_name.items())
