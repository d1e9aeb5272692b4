"""What the commands share: option types, exit codes, and how settings are put together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from fission_grpo.recipes import Recipe
from fission_grpo.recipes.arms import Arm

if TYPE_CHECKING:
    from fission_grpo.config import RunSettings, Setting

FAILED, WRONG_INPUT = 1, 2
"""Exit codes beside 0: something broke or was found wanting; the user can correct it. See `INTERRUPTED`, too."""

OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of commands that take settings: what is no option of theirs is one."""

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
ModelName: TypeAlias = Annotated[str | None, typer.Option(help="nano, smollm2, or a Hugging Face folder.")]
RecipeName: TypeAlias = Annotated[Recipe | None, typer.Option(help="Settings to start from.")]
NoTree: TypeAlias = Annotated[
    bool, typer.Option("--no-tree", help="Pay for shared prefixes in every row; for comparisons (trainer.tree=false).")
]
ConfigFile: TypeAlias = Annotated[Path | None, typer.Option(help="YAML file that changes the recipe.")]


def json_text(value: Any) -> str:
    """What `--json` prints."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def read_settings(
    recipe: Recipe | None,
    config: Path | None,
    arm: Arm | None,
    flags: Mapping[str, Any],
    extra: Iterable[str],
    *,
    base: RunSettings | None = None,
) -> RunSettings:
    """The settings that a command line asks for: see `resolve`. Options come first, other settings after them."""
    from fission_grpo.config import read_overrides
    from fission_grpo.recipes.resolve import resolve

    written = [*_flagged(flags), *read_overrides(list(extra))]
    return resolve(recipe=recipe, base=base, file=config, arm=arm, written=written)


def apart(file: Path | None, extra: Sequence[str]) -> tuple[Path | None, list[str]]:
    """A file that may be left out, and settings: the first word is taken for the file, and may belong to a setting."""
    if file is not None and (str(file).startswith("--") or ("=" in str(file) and not file.exists())):
        return None, [str(file), *extra]
    return file, list(extra)


def _flagged(flags: Mapping[str, Any]) -> Iterator[Setting]:
    from fission_grpo.config import Setting

    for name, value in flags.items():
        if value is not None:
            yield Setting(key=tuple(name.split(".")), value=value, origin=f"--{name.rpartition('.')[2]}")
