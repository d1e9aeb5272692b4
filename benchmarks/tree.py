"""The training pass of a group and of a fission family, as TRL, prefix-grouper, separate rows and the tree make it.

One process, one model, the same token ids, rounds that alternate between the sides (`sides.py` says what each is). A
pass is a forward, the GRPO loss with beta 0, and a backward into every parameter.

    python benchmarks/tree.py --prompt 2000 --completion 64 --rounds 3 --json tree.json --figure tree.png

TRL and prefix-grouper are optional (`pip install trl==1.16 datasets prefix-grouper==0.0.1.post1`): a side whose package
is missing is left out. On a CPU the clock counts CPU seconds of one thread, so that a busy machine hits all sides
alike, and peak memory is that of a fresh process for each side. On CUDA it counts seconds of the wall, after a round
that is not counted, in which kernels are compiled; `gpu.sh` has the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from shapes import add_arguments, build_model, shape_of
from sides import SIDES, Pass, Work, installed

from fission_grpo.tree.prefix_tree import build_forest
from fission_grpo.types import TokenRow

GROUP = 8
FEEDBACK = 40


@dataclass(frozen=True, slots=True)
class Case:
    """One group of trajectories, or one with the recoveries from its first member."""

    prompt: int
    completion: int
    fission: bool

    def rows(self, vocabulary: int) -> list[TokenRow]:
        generator = torch.Generator().manual_seed(1)

        def tokens(count: int) -> tuple[int, ...]:
            return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

        def answered(context: tuple[int, ...]) -> TokenRow:
            trained = (False,) * len(context) + (True,) * self.completion
            return TokenRow(ids=context + tokens(self.completion), trained=trained)

        prompt = tokens(self.prompt)
        group = [answered(prompt) for _ in range(GROUP)]
        if not self.fission:
            return group
        corrective = group[0].ids + tokens(FEEDBACK)
        return [*group, *(answered(corrective) for _ in range(GROUP))]


@dataclass(slots=True)
class Result:
    """What was measured on one case."""

    case: Case
    unshared_tokens: int
    unique_tokens: int
    model_flops: float
    """What one pass over the unique tokens must compute."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By side, one for each round."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    """By side, above what was held before the pass; gradients included."""
    gradient_difference: dict[str, float] = field(default_factory=dict)
    """By side, largest entry of the difference to the tree's gradient, relative to the largest of its parameter."""
    does_not_fit: list[str] = field(default_factory=list)
    """Sides that the device has too little memory for."""
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def times_the_tree(self, side: str) -> float:
        return median(self.seconds[side]) / median(self.seconds.get("tree", [nan]))

    def utilisation(self, side: str, peak_tflops: float) -> float:
        """Of the device's peak, what the unique tokens made use of: a side that reads a token twice gets no credit."""
        return self.model_flops / median(self.seconds[side]) / (peak_tflops * 1e12)


def work_of(options: argparse.Namespace, model: Any, rows: Sequence[TokenRow]) -> Work:
    return Work(model=model, rows=rows, token_budget=options.token_budget, attention=options.attention)


def timed(run: Pass, model: Any) -> tuple[float, float]:
    """CPU seconds, or seconds on the device and the MiB that were held at most above those held before."""
    model.zero_grad()
    if model.device.type != "cuda":
        return seconds_of(run, "cpu"), 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    seconds = seconds_of(run, "cuda")
    return seconds, (torch.cuda.max_memory_allocated() - held) / 2**20


def seconds_of(run: Pass, device: str) -> float:
    """CPU seconds of this process, or seconds on a CUDA device."""
    if device == "cpu":
        begin = time.process_time()
        run()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_mib(options: argparse.Namespace, case: Case, side: str) -> float:
    """Peak memory of one pass in a process of its own, above the model and what was imported."""
    arguments = [*sys.argv[1:], "--prompt", str(case.prompt), "--completion", str(case.completion)]
    arguments += ["--fission", "with" if case.fission else "without", "--sides", side, "--only-peak"]
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(options: argparse.Namespace, case: Case) -> None:
    work = work_of(options, build_model(options), case.rows(shape_of(options).vocabulary))
    run = SIDES[options.sides[0]](work)
    before = resident_mib()
    run()
    print(resident_mib("VmHWM") - before)


def resident_mib(kind: str = "VmRSS") -> float:
    """Of this process alone: `ru_maxrss` would begin with what its parent held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024


def measure(options: argparse.Namespace, model: Any, case: Case) -> Result:
    shape = shape_of(options)
    rows = case.rows(shape.vocabulary)
    forest = build_forest([row.ids for row in rows])
    result = Result(
        case=case,
        unshared_tokens=forest.unshared_tokens,
        unique_tokens=len(forest),
        model_flops=shape.pass_flops(forest, len(rows) * case.completion),
        load=os.getloadavg(),
    )
    work = work_of(options, model, rows)
    runs = {side: SIDES[side](work) for side in options.sides}
    of_the_tree: list[torch.Tensor] = []
    for number in range(-options.warm_up, options.rounds):
        for side in [side for side in runs if side not in result.does_not_fit]:
            try:
                seconds, peak = timed(runs[side], model)
            except torch.OutOfMemoryError:
                result.does_not_fit.append(side)
                continue
            print(f"{case} {side}: {seconds:.2f} s", file=sys.stderr, flush=True)
            if number >= 0:
                result.seconds.setdefault(side, []).append(seconds)
            if number == 0:
                result.peak_mib[side] = peak
                compare(side, model, of_the_tree, result)
    if options.device == "cpu":
        result.peak_mib = {} if options.no_peak else {side: peak_mib(options, case, side) for side in options.sides}
    return result


def compare(side: str, model: Any, of_the_tree: list[torch.Tensor], result: Result) -> None:
    """Note by how much a side's gradient differs; the tree, which comes first, leaves its own behind, on the CPU."""
    if side == "tree":
        of_the_tree += [parameter.grad.to("cpu", copy=True) for parameter in model.parameters()]
    elif side != "floor" and of_the_tree:
        result.gradient_difference[side] = max(
            (
                (parameter.grad.float() - (tree := own.to(parameter.device).float())).abs().max() / tree.abs().max()
            ).item()
            for parameter, own in zip(model.parameters(), of_the_tree, strict=True)
        )


def table(results: Sequence[Result], peak_tflops: float | None) -> str:
    columns = ["P", "C", "fission", "unshared", "unique", "side", "s", "times the tree", "peak MiB"]
    columns += ["of the peak"] if peak_tflops else []
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for result in results:
        case = result.case
        tokens = [
            case.prompt,
            case.completion,
            "yes" if case.fission else "no",
            result.unshared_tokens,
            result.unique_tokens,
        ]
        for side in dict.fromkeys([*result.seconds, *result.peak_mib]):
            seconds, peak = result.seconds.get(side), result.peak_mib.get(side)
            cells = [*tokens, side, *([spread(seconds), f"{result.times_the_tree(side):.2f}"] if seconds else ["", ""])]
            cells += ["" if peak is None else round(peak)]
            cells += [f"{result.utilisation(side, peak_tflops):.1%}"] if peak_tflops and seconds else []
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        for side in result.does_not_fit:
            cells = [*tokens, side, "does not fit"]
            lines.append("| " + " | ".join(map(str, cells)) + " |" * (1 + len(columns) - len(cells)))
    return "\n".join(lines)


def spread(seconds: Sequence[float]) -> str:
    """The median, and the fastest and the slowest round where there are several."""
    ends = f" [{min(seconds):.3g}, {max(seconds):.3g}]" if len(seconds) > 1 else ""
    return f"{median(seconds):.3g}{ends}"


class Compared(Protocol):
    """A case on which sides were measured, the tree among them."""

    def times_the_tree(self, side: str) -> float: ...


def draw(results: Sequence[Result], path: Path) -> None:
    sides = {side: side for side in SIDES if side != "tree" and all(side in result.seconds for result in results)}
    ticks = [f"P={r.case.prompt}\nC={r.case.completion}{' +fission' if r.case.fission else ''}" for r in results]
    draw_bars(results, sides, ticks=ticks, unit="time, in passes of the tree", path=path)


def draw_bars(
    results: Sequence[Compared], sides: Mapping[str, str], *, ticks: Sequence[str], unit: str, path: Path
) -> None:
    """A group of bars for each case, and in it one for each side, in times of the tree.

    Args:
        sides: what each side is called in the legend.
        ticks: what each case is called below its bars.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 1.1 * len(results), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, (side, label) in enumerate(sides.items()):
        at = [index + 0.8 * (place + 0.5) / len(sides) - 0.4 for index in range(len(results))]
        bars = axes.bar(at, [result.times_the_tree(side) for result in results], 0.75 / len(sides), label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(results)), ticks)
    axes.set_ylabel(unit)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--prompt", type=int, nargs="+", default=[512, 2000, 6000])
    parser.add_argument("--completion", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--fission", choices=["with", "without", "both"], default="both")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES))
    parser.add_argument("--attention", default="sdpa", help="of the floor and TRL: sdpa, flash_attention_2, ...")
    parser.add_argument("--rounds", type=int, default=1, help="0: peak memory alone")
    parser.add_argument("--warm-up", type=int, help="rounds that are not counted; on CUDA 1")
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak-tflops", type=float, help="of the device in this type, for its utilisation")
    parser.add_argument("--no-peak", action="store_true")
    parser.add_argument("--only-peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    chosen = options.sides or [side for side in SIDES if side != "trl-batch"]
    options.sides = [side for side in SIDES if side in chosen and installed(side)]
    if options.warm_up is None:
        options.warm_up = int(options.device != "cpu")
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    with_fission = {"with": [True], "without": [False], "both": [False, True]}[options.fission]
    cases = [Case(p, c, fission) for p in options.prompt for c in options.completion for fission in with_fission]
    if options.only_peak:
        print_peak(options, cases[0])
        return
    model = build_model(options)
    results = []
    for case in cases:
        results.append(measure(options, model, case))
        if options.json:
            machine = torch.cuda.get_device_name() if options.device != "cpu" else platform.processor()
            written = {"machine": machine, "torch": torch.__version__, "options": vars(options)}
            options.json.write_text(
                json.dumps(written | {"results": [asdict(result) for result in results]}, indent=1, default=str)
            )
    print(table(results, options.peak_tflops))
    if options.figure and options.rounds:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
