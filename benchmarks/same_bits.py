"""Do two checkouts train and evaluate alike, bit for bit? A cut-down quickstart of every arm is run in both.

    python benchmarks/same_bits.py BEFORE AFTER [--output DIR] [--steps 6] [--size 9]

BEFORE and AFTER are checkouts of this repository. Both run with this interpreter, one thread and the same packages;
what a checkout has finished in `--output` is not run again. Compared: every line of `metrics.jsonl` without its times,
every line of `traces.jsonl`, the final weights of every arm, and what the evaluations wrote for each episode. Exit code
1 says that something differs; the first difference of each file is shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARMS = "grpo,grpo-matched,grpo-decision,fission,fission-decision,fission-static,fission-passthrough,fission-offline"
TIMES = ("time/", "generate/")
"""Prefixes of metrics that may differ: seconds, and how the sampler went about its work."""
COMPARED = (
    *("metrics.jsonl", "traces.jsonl", "*.safetensors"),
    *("episodes.jsonl", "transfer.jsonl", "mixed.jsonl", "precondition.jsonl"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/same-bits"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--size", type=int, default=9)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    folders = []
    for name, checkout in (("before", asked.before), ("after", asked.after)):
        folder = (asked.output / name).resolve()
        run(checkout.resolve(), folder, steps=asked.steps, size=asked.size, workers=asked.workers)
        folders.append(folder)
    differences = list(compare(*folders))
    for line in differences:
        print(line)
    print(f"{len(differences)} difference(s) in {len(compared_files(folders[0]))} files")
    return 1 if differences else 0


def run(checkout: Path, folder: Path, *, steps: int, size: int, workers: int) -> None:
    """A cut-down quickstart of every arm, by the code of `checkout`."""
    command = [sys.executable, "-m", "fission_grpo.cli", "quickstart", "--arms", ARMS, "--size", str(size)]
    settings = [f"trainer.steps={steps}", "trainer.checkpoint_every=1000"]
    subprocess.run(
        [*command, "--output", str(folder), "--workers", str(workers), *settings],
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def compared_files(folder: Path) -> list[Path]:
    """What is compared, as paths below a quickstart's folder."""
    found = (path for pattern in COMPARED for path in folder.rglob(pattern))
    return sorted(path.relative_to(folder) for path in found if "checkpoints" not in path.parts)


def compare(before: Path, after: Path) -> Iterator[str]:
    """One line for each file that differs."""
    names = compared_files(before)
    for missing in sorted(set(names) ^ set(compared_files(after))):
        yield f"{missing}: only in one of both"
    if not names:
        yield f"{before}: holds nothing to compare"
    for name in names:
        if (after / name).exists() and (difference := first_difference(before / name, after / name)):
            yield f"{name}: {difference}"


def first_difference(before: Path, after: Path) -> str | None:
    """None where two files say the same."""
    if before.suffix == ".safetensors":
        return None if digest(before) == digest(after) else "other weights"
    lines, others = records(before), records(after)
    if len(lines) != len(others):
        return f"{len(lines)} lines against {len(others)}"
    for number, (one, other) in enumerate(zip(lines, others, strict=True), start=1):
        if keys := [key for key in sorted({*one, *other}) if one.get(key, "missing") != other.get(key, "missing")]:
            return f"line {number}: {', '.join(keys)}"
    return None


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file without what may differ."""
    lines = (json.loads(line, object_hook=timeless) for line in path.read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]


def timeless(value: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON without the seconds that a call took."""
    return {key: inner for key, inner in value.items() if key != "seconds"}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
