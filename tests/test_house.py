"""The house rules that a machine can check; the layers are import-linter's (`pyproject.toml`)."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

import fission_grpo
from fission_grpo.cli import app

PACKAGE = Path(fission_grpo.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

LONGEST_MODULE = 520
LONGEST_TRAINER = 250
MOST_TOP_MODULES = 14
MOST_EVALUATION_MODULES = 24

Documented: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def defined(module: Path) -> Iterator[str]:
    """Public names that the top level of a module defines; a function that bears a command's name is left out."""
    for node in parsed(module).body:
        match node:
            case ast.FunctionDef() if (module, node.name) in command_functions():
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names = [node.name]
            case ast.Assign():
                names = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            case ast.AnnAssign(target=ast.Name() as target):
                names = [target.id]
            case _:
                continue
        yield from (name for name in names if not name.startswith("_"))


@cache
def command_functions() -> set[tuple[Path, str]]:
    """Modules and names of the functions behind the commands of `fission`, which typer names them after."""
    apps, found = [app], set()
    while apps:
        current = apps.pop()
        apps += [group.typer_instance for group in current.registered_groups if group.typer_instance]
        for command in current.registered_commands:
            assert command.callback
            place = Path(inspect.getfile(command.callback)).relative_to(PACKAGE)
            found.add((place, command.callback.__name__))
    return found


def documented(node: Documented, within: str) -> Iterator[tuple[str, Documented]]:
    """The module, its classes and its functions with their names, methods and private ones included."""
    yield within, node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from documented(inner, f"{within}.{inner.name}")


def test_a_public_name_is_defined_once() -> None:
    places = defaultdict(list)
    for module in MODULES:
        for name in sorted({*defined(module)}):
            places[name].append(str(module))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_docstring_begins_with_its_summary(module: Path) -> None:
    for name, node in documented(parsed(module), str(module)):
        docstring = ast.get_docstring(node) or ""
        assert not re.match(r"\w+:\s*$", docstring.partition("\n")[0]), f"{name}: {docstring}"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_can_be_read_in_one_sitting(module: Path) -> None:
    lines = len((PACKAGE / module).read_text(encoding="utf-8").splitlines())
    assert lines <= (LONGEST_TRAINER if module == Path("training/trainer.py") else LONGEST_MODULE)


def test_the_top_level_and_the_evaluation_hold_few_modules() -> None:
    assert sum(len(module.parts) == 1 for module in MODULES) <= MOST_TOP_MODULES
    assert sum(module.parts[0] == "evaluation" for module in MODULES) <= MOST_EVALUATION_MODULES
