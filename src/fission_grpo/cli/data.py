"""`fission data`: task files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fission_grpo.cli.options import FAILED, Json, json_text
from fission_grpo.errors import ConfigError, DataError

data = typer.Typer(no_args_is_help=True, help="Make and check task files.", rich_markup_mode=None)


@data.command()
def make(
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSONL file to write.")],
    split: Annotated[str, typer.Option(help="train, validation or heldout.")] = "train",
    count: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    apis: Annotated[str | None, typer.Option(help="Official classes, separated by commas.")] = None,
    as_json: Json = False,
) -> None:
    """Synthesise tasks over the official BFCL classes; every one has proved itself in its world."""
    from fission_grpo.tasks.jsonl import write_tasks
    from fission_grpo.tasks.synthesis.families import SEEN_APIS
    from fission_grpo.tasks.synthesis.generator import Split, synthesise

    if split not in list(Split):
        raise ConfigError(f"unknown split {split!r}; expected {', '.join(Split)}")
    chosen = tuple(name.strip() for name in apis.split(",")) if apis else SEEN_APIS
    tasks = synthesise(seed, count, apis=chosen, split=split)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_tasks(output, tasks)
    hidden = sum(bool(task.meta["hidden"]) for task in tasks)
    told = {"file": str(output), "tasks": len(tasks), "hidden_precondition": hidden, "split": split, "seed": seed}
    typer.echo(json_text(told) if as_json else f"{len(tasks)} tasks in {output}, {hidden} with a hidden precondition")


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="A JSONL file of tasks, or of simulator records.")],
    against: Annotated[Path | None, typer.Option(help="Another task file that it must not overlap with.")] = None,
    as_json: Json = False,
) -> None:
    """Name every problem of a file at once, overlap with the official test entries included."""
    from fission_grpo.simulator_lab.records import check_simulator_records, looks_like_records

    if looks_like_records(file):
        kind, count, problems = "records", None, [f"{file}: {problem}" for problem in check_simulator_records(file)]
    else:
        kind = "tasks"
        count, problems = _check_tasks(file, against)
    if as_json:
        counted = {} if count is None else {kind: count}
        typer.echo(json_text({"file": str(file), "ok": not problems, **counted, "problems": problems}))
    else:
        for problem in problems:
            typer.echo(problem)
        sound = f"{file}: no problems" if count is None else f"{file}: {count} {kind}, no problems"
        typer.echo(f"{len(problems)} problem(s)" if problems else sound)
    raise typer.Exit(FAILED if problems else 0)


def _check_tasks(file: Path, against: Path | None) -> tuple[int, list[str]]:
    """How many tasks there are, and what is wrong with them."""
    from fission_grpo.tasks.jsonl import read_tasks
    from fission_grpo.tasks.synthesis.overlap import official_overlap, overlap

    try:
        tasks = read_tasks(file)
        shared = [*official_overlap(tasks), *(overlap(tasks, read_tasks(against)) if against else [])]
    except DataError as error:
        return 0, [f"{error.path}: {problem}" for problem in error.problems]
    return len(tasks), [f"{file}: {offence}" for offence in shared]
