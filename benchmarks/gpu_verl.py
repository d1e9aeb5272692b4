"""Some steps of `fission train --engine verl` with random weights: seconds by phase, and peak memory beside the plan's.

    python benchmarks/gpu_verl.py model FOLDER --shape qwen3-0.6b       write a model, with nano's tokenizer
    python benchmarks/gpu_verl.py joint FOLDER --output RUN             train it: grpo, joint or own
    python benchmarks/gpu_verl.py joint FOLDER --output RUN --dry-run   what verl is given, and the plan

    grpo     verl with our worlds, judge and baselines; no recoveries
    joint    recoveries in the update of their step
    own      in an update of their own, with weights pushed in between, as in the paper

`gpu_verl.sh` runs all of them. Random answers are as long as they may be, and every one is cut off, which is an error:
all recoveries are due. The first step is left out of the medians. With `--device cpu` the stand-ins of
tests/engines/verl take the place of a GPU and of vLLM. RUN/bench.json has the numbers, RUN/verl.jsonl verl's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shapes import add_arguments, build_model, shape_of

from fission_grpo import recipe
from fission_grpo.config import RunSettings
from fission_grpo.files import read_jsonl
from fission_grpo.models.catalog import load_tokenizer
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.memory import size_text

SIDES = ("grpo", "joint", "own")
SHARE = 0.3
"""Of the device, for vLLM."""
WINDOW = 8192
"""Tokens of a dialogue: the longest prompt, an answer, feedback, a recovery."""
TIMES = ("step", "gen", "old_log_prob", "update_actor", "update_weights", "save_checkpoint", "fission")
"""verl's names of what it measures, and ours: seconds of fission's own code in the driver."""
STAND_INS = Path(__file__).parents[1] / "tests" / "engines" / "verl"


def settings_of(side: str, options: argparse.Namespace) -> RunSettings:
    """The paper's step, smaller."""
    cuda = options.device == "cuda"
    queries = options.queries
    contexts = 0 if side == "grpo" else queries
    return recipe(
        "paper",
        {
            "model": options.folder,
            "output": str(options.output),
            "engine.name": "verl",
            "engine.gpus": 1,
            "engine.autocast": cuda,
            "engine.vllm_share": SHARE,
            "engine.vllm_window": WINDOW if cuda else 2048,
            "engine.gpu_memory": torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else None,
            "synthetic.count": max(8, queries * (options.steps + 1) // 2),
            "trainer.steps": options.steps + 1,
            "trainer.queries": queries,
            "trainer.group_size": options.group,
            "trainer.token_budget": options.token_budget,
            "rollouts.max_tokens": options.completion,
            "fission.contexts": contexts,
            "fission.group_size": options.group,
            "fission.trigger": max(contexts, 1),
            "fission.capacity": 4 * queries,
            "fission.own_step": side == "own",
            **_engine(options.device),
        },
    )


def _engine(device: str) -> dict[str, Any]:
    """Keys of verl's own: its log as a file, and what is not installed left alone."""
    logged = {"engine.verl.trainer.logger": ["console", "file"]}
    if device == "cpu":
        from on_cpu import settings

        return {**logged, **settings()}
    if find_spec("flash_attn"):
        return logged
    model = "engine.verl.actor_rollout_ref.model"
    return {**logged, f"{model}.use_remove_padding": False, f"{model}.override_config.attn_implementation": "sdpa"}


@contextmanager
def device_peak(device: str) -> Iterator[list[int]]:
    """Most bytes that were in use on the first GPU, by all processes, asked for every half second."""
    seen: list[int] = []
    ended = threading.Event()

    def look() -> None:
        ask = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not ended.wait(0.5):
            told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
            seen.append(int(told) * 2**20)

    watcher = threading.Thread(target=look, daemon=True)
    if device == "cuda":
        watcher.start()
    try:
        yield seen
    finally:
        ended.set()


def train(side: str, settings: RunSettings, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure."""
    from fission_grpo.commands.train import train as run
    from fission_grpo.commands.train_verl import make_verl_plan

    plan = make_verl_plan(settings)
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "verl.jsonl"
    os.environ["VERL_FILE_LOGGER_PATH"] = str(log.resolve())
    with device_peak(options.device) as seen:
        run(settings)
    steps = [line["data"] for line in read_jsonl(log)]
    found = {
        "side": side,
        "rows": plan.rows,
        **measured(steps[1:]),
        "peak": max(seen, default=None),
        "actor_peak": steps[-1].get("actor/perf/max_memory_allocated_gb"),
        "plan": plan.device.memory.total,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    print(line_of(found))
    return found


def measured(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians of seconds by phase, and of the share of fission's own code."""
    seconds = {name: [step.get(f"timing_s/{name}", 0.0) for step in steps] for name in TIMES}
    shares = [own / whole for own, whole in zip(seconds["fission"], seconds["step"], strict=True)]
    return {**{name: median(each) for name, each in seconds.items()}, "share": median(shares)}


def line_of(found: Mapping[str, Any]) -> str:
    """For a person."""
    peak = "not measured on a CPU" if found["peak"] is None else size_text(found["peak"])
    times = "  ".join(f"{name} {found[name]:.2f}" for name in TIMES[:-1])
    return (
        f"{found['side']:<5} {found['rows']:>4} rows  seconds: {times}  driver's own {found['fission']:.3f} "
        f"({found['share']:.2%} of a step)  peak {peak}, by the plan at most {size_text(int(found['plan']))}"
    )


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was written on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["model", *SIDES])
    parser.add_argument("folder", help="of the model, or its name")
    parser.add_argument("--output", type=Path, help="the run folder")
    parser.add_argument("--steps", type=int, default=3, help="beside the first one")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--completion", type=int, default=1024, help="tokens")
    parser.add_argument("--token-budget", type=int, default=8192)
    parser.add_argument("--dry-run", action="store_true")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    if options.side != "model" and options.output is None:
        parser.error("a run needs --output, the folder that it is written to")
    return options


def main() -> None:
    options = options_of()
    if options.side == "model":
        shape = shape_of(options)
        print(f"writing a random model of {shape.layers} layers of {shape.hidden} to {options.folder}")
        save_model_folder(build_model(options), load_tokenizer("nano"), Path(options.folder))
        return
    if options.device == "cpu":
        sys.path.insert(0, str(STAND_INS))
        from on_cpu import environment

        os.environ.update(environment())  # before verl is imported
    settings = settings_of(options.side, options)
    if options.dry_run:
        from fission_grpo.commands.train_verl import make_verl_plan

        print("\n".join(make_verl_plan(settings).lines()))
        return
    found = train(options.side, settings, options)
    (options.output / "bench.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
