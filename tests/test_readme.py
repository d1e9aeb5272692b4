"""README and documents can be taken at their word: commands, options, settings and files exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fission_grpo.cli import app
from fission_grpo.config import setting_names
from fission_grpo.simulator_lab.finetune import SimulatorTrainingSettings

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
SETTINGS = {*setting_names(), *setting_names(SimulatorTrainingSettings)}


def typed(page: Path) -> Iterator[str]:
    """Every `fission ...` line of a page's code blocks."""
    for block in page.read_text(encoding="utf-8").split("```")[1::2]:
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line for line in lines if line.startswith("fission "))


COMMANDS = [pytest.param(line, id=f"{page.name}: {line[:60]}") for page in PAGES for line in typed(page)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_documents_can_be_typed(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"no command {name!r}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        option, equals, _ = word.partition("=")
        if option in options or not (word.startswith("-") or equals):
            continue
        assert command.context_settings.get("ignore_unknown_options"), f"no option {option!r}"
        name = option.removeprefix("--")
        assert name in SETTINGS or name.startswith("environments."), f"no option or setting {option!r}"


def test_every_file_that_the_documents_name_is_there() -> None:
    named = {
        (page.name, path)
        for page in (*PAGES, ROOT / "CHANGELOG.md")
        for path in re.findall(r"`([\w./-]+\.(?:py|sh|yaml|md|jsonl))", page.read_text(encoding="utf-8"))
        if "/" in path and not path.startswith(("runs/", "official/"))
    }
    places = (ROOT, ROOT / "src" / "fission_grpo")
    assert [one for one in sorted(named) if not any((place / one[1]).exists() for place in places)] == []
