"""README's commands, typed as they stand there; what takes minutes, or needs what no test has, is left out by name."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fission_grpo.cli import app

README = Path(__file__).parent.parent / "README.md"
EXAMPLE, MINUTES, SERVED = "tests/test_examples.py runs it, cut down", "it takes minutes", "it needs a server"
PLAYED = "tests/cli has it on smaller runs"
LEFT_OUT: Mapping[str, str] = {
    "quickstart": MINUTES,
    "install-benchmarks": "it installs packages",
    "train --recipe nano --config examples/own_tools.yaml": EXAMPLE,
    "eval tasks examples/own_tools_heldout.jsonl": EXAMPLE,
    "compare runs/own-grpo runs/own-fission": EXAMPLE,
    "report runs/own-": EXAMPLE,
    "train --model MODEL --recipe nano --lora.rank 16": MINUTES,
    "train --output runs/mine --resume": MINUTES,
    "eval heldout": MINUTES,
    "eval bfcl --model PATH": MINUTES,
    "eval bfcl --model NAME --endpoint": SERVED,
    "eval probes": MINUTES,
    "eval tau2": MINUTES,
    "compare runs/before runs/after": PLAYED,
    "simulator data": PLAYED,
    "simulator train": PLAYED,
    "simulator audit": PLAYED,
    "train simulator=model": PLAYED,
}
"""How a command begins that is not run here, and why."""


def commands() -> Iterator[str]:
    """What the code blocks of the page have to be typed, without their comments."""
    for block in README.read_text(encoding="utf-8").split("```bash\n")[1:]:
        lines = block.partition("```")[0].replace("\\\n", " ").splitlines()
        yield from (re.sub(r"\s+# .*", "", line) for line in lines if line.startswith("fission "))


def is_left_out(line: str) -> bool:
    return any(line.startswith(f"fission {beginning}") for beginning in LEFT_OUT)


def test_whatever_is_left_out_is_on_the_page() -> None:
    lines = list(commands())
    assert [one for one in LEFT_OUT if not any(line.startswith(f"fission {one}") for line in lines)] == []


def test_the_other_commands_work_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one folder and in order, so that one finds what another has left; `cd` holds for what follows."""
    lines = [line for line in commands() if not is_left_out(line)]
    assert len(lines) >= 7
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    with chdir(tmp_path):
        for step in (part.strip() for line in lines for part in line.split("&&")):
            program, *words = shlex.split(step.replace("MODEL", "nano"))
            if program == "cd":
                os.chdir(words[0])
                continue
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{step}: {result.output}"
    sys.modules.pop("shop", None)
