"""Plain TRL 1.16, TRL with our engine, our own trainer and a vLLM server, side by side in one run.

    step       a whole training step at long prompts: one message, no tools; every side samples and updates on as much
    tools      a whole training step of `nano` in an `environment_factory`: several messages, tools, errors; plain TRL
               has its own tool loop. How much is sampled follows from what is said, so it is counted
    pass       the training pass alone inside TRL, with our prefix tree and without: a group, and one with recoveries;
               loss and gradient are compared
    sampling   the same prompts and as many tokens, by our sampler, `model.generate`, and a vLLM server if there is one

    python benchmarks/engines.py --rounds 3 --steps 3 --json engines.json
    python benchmarks/engines.py --parts step --prompt 200 --completion 16      # a look in a minute

What each side is, and what is fair, stands in `engine_steps.py`. Needs `pip install 'fission-grpo[trl]'`. Each side is
a process of its own, and they take turns step by step (`turns.py`), on a CPU. The model of all parts but `tools` is a
random Qwen3. For vLLM, write it down and serve it:

    python benchmarks/engines.py --write-model random-qwen3
    vllm serve random-qwen3 --served-model-name random-qwen3 --dtype float32 --logprobs-mode processed_logprobs
    python benchmarks/engines.py --parts sampling --server http://localhost:8000

(With as many threads as --threads says; on a CPU also `--no-enable-chunked-prefill --max-model-len 4096`, as vLLM wants
a whole window to fit a batch then. Its memory is not in the table.) A table shows medians [fastest, slowest] and totals
of tokens and rows; seconds are those of the wall, so nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TypeAlias

import torch
from engine_parts import SAMPLED, gradient_file, pass_cases, sampling, training_pass
from engine_steps import STEP_SIDES
from engine_worlds import StepWork, help_desk, long_prompts
from shapes import build_model
from tree import spread
from turns import Phase, Seat, Turn, Work, take_turns

from fission_grpo.models.catalog import load_chat
from fission_grpo.models.folder import save_model_folder

Turns: TypeAlias = dict[str, list[Turn]]
"""By side."""
GRADIENT_TOLERANCE = 1e-4
"""Largest difference of two gradients in float32, relative to the length of one: they add up in different orders."""


def step(options: argparse.Namespace) -> dict[str, Turns]:
    sides = ("trl", "trl-completions", "engine", "own")
    turns = _whole_steps(options, long_prompts, sides, options.steps)
    for number, taken in enumerate(zip(*turns.values(), strict=True)):
        wanted = options.tasks * options.group * options.completion
        done = [dict(turn.noted) for turn in taken]
        if any(one != done[0] for one in done) or done[0]["sampled_tokens"] != wanted:
            raise SystemExit(f"sides did not do the same in step {number}: {dict(zip(turns, done, strict=True))}")
    return {"long prompts": turns}


def tools(options: argparse.Namespace) -> dict[str, Turns]:
    sides = ("trl-completions", "engine", "own", "engine-fission", "own-fission")
    return {"help desk": _whole_steps(options, help_desk, sides, options.tool_steps)}


def training(options: argparse.Namespace) -> dict[str, Turns]:
    cases = list(pass_cases(options))
    with TemporaryDirectory() as name:
        folder = Path(name)
        sides = {
            side: partial(training_pass, options=options, folder=folder, tree=side == "tree")
            for side in ("trl", "tree")
        }
        found = _by_case(cases, _take(options, sides, turns=options.rounds * len(cases)))
        for case, turns in found.items():
            losses = [turn.noted["loss"] for taken in turns.values() for turn in taken]
            theirs, ours = (torch.load(gradient_file(folder, case, tree=tree)) for tree in (False, True))
            apart = float((ours - theirs).norm() / theirs.norm())
            if max(losses) - min(losses) > 1e-5 or apart > GRADIENT_TOLERANCE:
                raise SystemExit(f"{case}: losses {losses}, and gradients differ by {apart:.1e}")
            print(f"{case}: gradients differ by {apart:.1e}", file=sys.stderr)
    return found


def sampled(options: argparse.Namespace) -> dict[str, Turns]:
    sides = {name: partial(sampling, options=options, sampler=name) for name in ("generate", "own")}
    if options.server:
        sides["vllm"] = partial(sampling, options=options, sampler="vllm")
    return _by_case(list(SAMPLED), _take(options, sides, turns=options.rounds * len(SAMPLED)))


PARTS: Mapping[str, tuple[Callable[[argparse.Namespace], dict[str, Turns]], str]] = {
    "step": (step, "trl-completions"),
    "tools": (tools, "trl-completions"),
    "pass": (training, "trl"),
    "sampling": (sampled, "generate"),
}
"""What is run, and the side that others are compared with."""


def _step_side(
    seat: Seat, options: argparse.Namespace, work: Callable[[argparse.Namespace], StepWork], side: str
) -> None:
    run, named = STEP_SIDES[side]
    run(seat, work(options), **named)


def _whole_steps(
    options: argparse.Namespace, work: Callable[[argparse.Namespace], StepWork], sides: Sequence[str], steps: int
) -> Turns:
    return _take(
        options, {side: partial(_step_side, options=options, work=work, side=side) for side in sides}, turns=steps
    )


def _take(options: argparse.Namespace, sides: Mapping[str, Work], *, turns: int) -> Turns:
    return take_turns(sides, turns=turns, threads=options.threads, told=lambda line: print(line, file=sys.stderr))


def _by_case(cases: Sequence[str], turns: Turns) -> dict[str, Turns]:
    """A round takes the cases in order."""
    return {
        case: {side: taken[place :: len(cases)] for side, taken in turns.items()} for place, case in enumerate(cases)
    }


def table(found: Mapping[str, Turns], baseline: str) -> str:
    columns = ["", "side", "s", f"times {baseline}", *Phase, "peak MiB", "sampled", "s for 1000", "rows", "solved"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for case, turns in found.items():
        compared = median(turn.seconds for turn in turns[baseline])
        for side, taken in turns.items():
            seconds = median(turn.seconds for turn in taken)
            total = sum(turn.seconds for turn in taken)
            shares = [sum(turn.phases.get(phase, 0.0) for turn in taken) / total for phase in Phase]
            tokens = sum(turn.noted.get("sampled_tokens", 0) for turn in taken)
            rows = sum(turn.noted.get("rows", 0) for turn in taken)
            solved = [turn.noted["solved"] for turn in taken if "solved" in turn.noted]
            cells = [
                case,
                side,
                spread([turn.seconds for turn in taken]),
                f"{compared / seconds:.2f}",
                *(f"{share:.0%}" for share in shares),
                round(max(turn.peak_mib for turn in taken)),
                f"{tokens:.0f}" if tokens else "",
                f"{1000 * total / tokens:.2f}" if tokens else "",
                f"{rows:.0f}" if rows else "",
                f"{sum(solved) / len(solved):.0%}" if solved else "",
            ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--prompt", type=int, default=2000)
    parser.add_argument("--completion", type=int, default=64)
    parser.add_argument("--group", type=int, default=8, help="of the parts step and tools")
    parser.add_argument("--tasks", type=int, default=2, help="of a step at long prompts")
    parser.add_argument("--steps", type=int, default=1, help="at long prompts")
    parser.add_argument("--tool-tasks", type=int, default=8, help="of a step at the help desk")
    parser.add_argument("--tool-steps", type=int, default=5, help="at the help desk")
    parser.add_argument("--rounds", type=int, default=1, help="of the parts pass and sampling")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--checkpointing", action="store_true", help="activations are computed again, on every side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--server", help="URL of a vLLM that serves what --write-model wrote")
    parser.add_argument("--served-name", default="random-qwen3")
    parser.add_argument(
        "--write-model", type=Path, metavar="FOLDER", help="write the random model, and measure nothing"
    )
    parser.add_argument("--json", type=Path)
    vocabulary = len(load_chat("nano").tokenizer)
    parser.set_defaults(shape="small", device="cpu", dtype="float32", checkpoint=False, vocabulary=vocabulary)
    return parser.parse_args()


def main() -> None:
    options = parse()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if options.write_model:
        save_model_folder(build_model(options), load_chat("nano").tokenizer, options.write_model)
        return
    written = {"torch": torch.__version__, "options": vars(options), "parts": {}}
    for name in options.parts:
        run, baseline = PARTS[name]
        load = os.getloadavg()
        found = run(options)
        print(f"\n{name} (load {load[0]:.1f} before it)\n\n{table(found, baseline)}", flush=True)
        parts = {
            case: {side: [asdict(turn) for turn in taken] for side, taken in turns.items()}
            for case, turns in found.items()
        }
        written["parts"][name] = {"load": load, "turns": parts}
        if options.json:
            options.json.write_text(json.dumps(written, indent=1, default=str))


if __name__ == "__main__":
    main()
