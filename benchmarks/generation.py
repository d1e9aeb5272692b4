"""Sampling a group, its recoveries and its later turns: `model.generate`, our separate rows, and the tree.

One process, one model, the same prompts, rounds that alternate between the sides. `generate` is what synchronous
trainers do: a batch of whole prompts, padded on the left to the longest, read afresh for every turn. `rows` is this
package with `--no-tree`. Every completion has the same length, so that no side is luckier than another; what it saves
that rows are filled again when others end early shows in `benchmarks/step.py`.

    python benchmarks/generation.py --prompt 2000 --completion 64 --rounds 3 --json generation.json --figure gen.png

On a CPU the clock counts CPU seconds of one thread; peak memory is that of a fresh process for each side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import add_arguments, build_model, shape_of
from tree import FEEDBACK, GROUP, draw_bars, resident_mib, spread, timed

from fission_grpo.policy.base import Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.tree.prefix_tree import build_forest

NEVER = -1
"""An end token that nothing is: every completion has its full length."""
TURNS = 3
Ids = tuple[int, ...]
Generate = Callable[[Sequence[Ids], int], list[Ids]]
"""Contexts and the length of their prompt in, whole sequences out."""


class Workload(StrEnum):
    """What is sampled."""

    GROUP = "group"
    """G answers to one prompt."""
    FISSION = "fission"
    """A group; then the first answer's feedback, and G recoveries behind it."""
    TURNS = "turns"
    """A group of which every trajectory gets a reply and goes on, for three turns."""
    RAGGED = "ragged"
    """Four groups whose prompts have P, P/2, P/4 and P/8 tokens."""


@dataclass(frozen=True, slots=True)
class Case:
    workload: Workload
    prompt: int
    completion: int

    def play(self, generate: Generate, vocabulary: int, *, seed: int = 1) -> list[Ids]:
        """Every sequence that was made, finished or continued.

        Args:
            seed: of the prompts, and of what answers.
        """
        generator = torch.Generator().manual_seed(seed)

        def tokens(count: int) -> Ids:
            return tuple(torch.randint(vocabulary, (count,), generator=generator).tolist())

        lengths = [self.prompt >> halvings for halvings in range(4 if self.workload is Workload.RAGGED else 1)]
        contexts = [prompt for length in lengths for prompt in [tokens(length)] * GROUP]
        said = generate(contexts, self.completion)
        made = list(said)
        if self.workload is Workload.FISSION:
            made += generate([said[0] + tokens(FEEDBACK)] * GROUP, self.completion)
        for _ in range(TURNS - 1 if self.workload is Workload.TURNS else 0):
            said = generate([ids + tokens(FEEDBACK) for ids in said], self.completion)
            made += said
        return made


@dataclass(slots=True)
class Result:
    """What was measured on one case."""

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    prefilled: dict[str, int] = field(default_factory=dict)
    """Prompt tokens computed, by side."""
    unique: int = 0
    """Prompt tokens that differ: those of the tree of all sequences, less the sampled ones that were computed."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def times_the_tree(self, side: str) -> float:
        return median(self.seconds[side]) / median(self.seconds["tree"])


class OfPackage:
    """This package's policy."""

    def __init__(self, model: Any, *, share: bool) -> None:
        self.policy = HFPolicy(model, eos_id=NEVER, pad_id=0, share=share)

    def __call__(self, contexts: Sequence[Ids], completion: int) -> list[Ids]:
        sampling = Sampling(max_tokens=completion)
        completions = self.policy.generate(contexts, sampling=sampling, seed=0)
        return [ids + completion.ids for ids, completion in zip(contexts, completions, strict=True)]

    def take_prefilled(self) -> int:
        self.policy.invalidate()
        return self.policy.take_count().prefilled


class OfTransformers:
    """`model.generate` on a batch padded on the left."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.prefilled = 0

    def __call__(self, contexts: Sequence[Ids], completion: int) -> list[Ids]:
        longest = max(map(len, contexts))
        ids = torch.tensor([[0] * (longest - len(c)) + list(c) for c in contexts], device=self.model.device)
        mask = torch.tensor([[0] * (longest - len(c)) + [1] * len(c) for c in contexts], device=self.model.device)
        self.prefilled += ids.numel()
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=mask, max_new_tokens=completion, do_sample=True, top_k=0, pad_token_id=0
            )
        return [c + tuple(new) for c, new in zip(contexts, out[:, longest:].tolist(), strict=True)]

    def take_prefilled(self) -> int:
        prefilled, self.prefilled = self.prefilled, 0
        return prefilled


SIDES: dict[str, Callable[[Any], OfPackage | OfTransformers]] = {
    "tree": lambda model: OfPackage(model, share=True),
    "rows": lambda model: OfPackage(model, share=False),
    "generate": OfTransformers,
}


def unique_prompt_tokens(made: Sequence[Ids], completion: int) -> int:
    """Tokens of the tree of everything that was made, without the sampled ones."""
    return len(build_forest(list(made))) - len(made) * completion


def measure(options: argparse.Namespace, model: Any, case: Case) -> Result:
    vocabulary = shape_of(options).vocabulary
    result = Result(case=case, load=os.getloadavg())
    for _ in range(options.rounds):
        for name in options.sides:
            torch.manual_seed(0)
            side = SIDES[name](model)  # afresh: in a second round its cache would hold what it said in the first
            made: list[Ids] = []
            seconds, peak = timed(lambda side=side, made=made: made.extend(case.play(side, vocabulary)), model)
            result.seconds.setdefault(name, []).append(seconds)
            result.peak_mib[name] = peak
            result.prefilled[name] = side.take_prefilled()
            result.unique = unique_prompt_tokens(made, case.completion)
            print(f"{case} {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    if options.device == "cpu":
        result.peak_mib = {} if options.no_peak else {name: peak_mib(case, name) for name in options.sides}
    return result


def peak_mib(case: Case, side: str) -> float:
    """Peak memory in a process of its own, above the model and what was imported."""
    arguments = [*sys.argv[1:], "--prompt", str(case.prompt), "--completion", str(case.completion)]
    arguments += ["--workload", case.workload, "--sides", side, "--only-peak"]
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(options: argparse.Namespace, case: Case) -> None:
    side = SIDES[options.sides[0]](build_model(options))
    before = resident_mib()
    case.play(side, shape_of(options).vocabulary)
    print(resident_mib("VmHWM") - before)


def table(results: Sequence[Result]) -> str:
    lines = ["| workload | P | C | unique | side | prefilled | s | times the tree | peak MiB |", "|" + "---|" * 9]
    for result in results:
        for side, seconds in result.seconds.items():
            case, peak = result.case, result.peak_mib.get(side)
            lines.append(
                f"| {case.workload} | {case.prompt} | {case.completion} | {result.unique} | {side} "
                f"| {result.prefilled[side]} | {spread(seconds)} | {result.times_the_tree(side):.2f} "
                f"| {'' if peak is None else round(peak)} |"
            )
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    named = {"rows": "ours, --no-tree", "generate": "model.generate"}
    sides = {side: named[side] for side in results[0].seconds if side != "tree"}
    ticks = [f"{r.case.workload}\nP={r.case.prompt}\nC={r.case.completion}" for r in results]
    draw_bars(results, sides, ticks=ticks, unit="time, in runs of the tree", path=path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", type=Workload, nargs="+", choices=list(Workload), default=list(Workload))
    parser.add_argument("--prompt", type=int, nargs="+", default=[512, 2000, 6000])
    parser.add_argument("--completion", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=1)
    add_arguments(parser)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peak", action="store_true")
    parser.add_argument("--only-peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    cases = [Case(w, p, c) for p in options.prompt for c in options.completion for w in options.workload]
    if options.only_peak:
        print_peak(options, cases[0])
        return
    model = build_model(options)
    results = []
    for case in cases:
        results.append(measure(options, model, case))
        if options.json:
            written = {"torch": torch.__version__, "options": vars(options)}
            found = [asdict(result) for result in results]
            options.json.write_text(json.dumps(written | {"results": found}, indent=1, default=str))
    print(table(results))
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
