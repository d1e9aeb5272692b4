"""The script for a GPU, as far as a CPU can see it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fission_grpo.commands.train_verl import make_verl_plan

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu_verl.py"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        return runpy.run_path(str(SCRIPT))
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.mark.parametrize(("side", "rows", "updates"), [("grpo", 8, 4), ("joint", 16, 4), ("own", 16, 8)])
def test_each_side_is_a_run_that_verl_takes(script: Any, tmp_path: Path, side: str, rows: int, updates: int) -> None:
    sizes = ["--queries", "2", "--group", "4", "--completion", "32"]
    options = script["options_of"]([side, "nano", "--device", "cpu", "--output", str(tmp_path), *sizes])
    plan = make_verl_plan(script["settings_of"](side, options))
    assert (plan.rows, plan.updates) == (rows, updates)  # 2 x 4, and as many recoveries; four steps


def test_medians_leave_out_nothing_but_the_first_step(script: Any) -> None:
    steps = [
        {"timing_s/step": whole, "timing_s/gen": 1.0, "timing_s/fission": own}
        for whole, own in ((10.0, 0.1), (20.0, 0.1), (10.0, 0.3))
    ]
    found = script["measured"](steps)
    assert (found["step"], found["gen"], found["update_actor"]) == (10.0, 1.0, 0.0)
    assert found["fission"] == 0.1
    assert found["share"] == pytest.approx(0.01)  # of 1 %, half a per cent, 3 %


def test_without_vllm_the_shell_script_says_so(tmp_path: Path) -> None:
    """`python` is one that has no vllm, and no model is written since one is named."""
    done = subprocess.run(
        ["sh", str(ROOT / "benchmarks" / "gpu_verl.sh"), str(tmp_path / "out")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "false", "MODEL": "nano"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "skipped: vllm is not installed" in done.stdout
    assert (tmp_path / "out" / "table.txt").read_text(encoding="utf-8") == "skipped: vllm is not installed\n"
