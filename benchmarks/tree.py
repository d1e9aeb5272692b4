"""The training pass of a group and of a fission family: TRL 1.16, separate rows, the tree, and the floor.

One process, one model, the same token ids, rounds that alternate between the sides. A pass is a forward, the GRPO loss
with beta 0, and a backward into every parameter. The floor is a causal forward and backward over the unique tokens in
one row, with as many positions at the LM head: what the tokens cost if nobody asked how they hang together.

    python benchmarks/tree.py --prompt 2000 --completion 64 --rounds 3 --json tree.json --figure tree.png

TRL is optional (`pip install trl==1.16`); without it that side is left out. On a CPU the clock counts CPU seconds of
one thread, so that a busy machine hits all sides alike; peak memory is that of a fresh process for each side.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from fission_grpo.losses import GRPO, Aggregation, policy_loss, token_weights
from fission_grpo.policy.scoring import TokenRow, score, separate, share_prefixes
from fission_grpo.tree import build_forest

GROUP = 8
FEEDBACK = 40
Pass = Callable[[], None]


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
    raw_tokens: int
    unique_tokens: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By side, one for each round."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    """By side, above what the process held before the pass."""
    gradient_difference: dict[str, float] = field(default_factory=dict)
    """By side, largest entry of the difference to the tree's gradient, relative to the largest of its parameter."""
    load: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def times_the_tree(self, side: str) -> float:
        return median(self.seconds[side]) / median(self.seconds["tree"])


def build_model(options: argparse.Namespace) -> Any:
    heads = options.hidden // 64
    config = Qwen3Config(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 2, 1),
        head_dim=64,
        intermediate_size=3 * options.hidden,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).to(options.device, getattr(torch, options.dtype))
    return model.eval()


def ours(model: Any, rows: Sequence[TokenRow], *, tree: bool, token_budget: int) -> Pass:
    width = max(sum(row.trained) for row in rows)
    mask = torch.arange(width)[None] < torch.tensor([sum(row.trained) for row in rows])[:, None]
    weights = token_weights(mask, Aggregation.TRAJECTORY_MEAN, max_tokens=width).to(model.device)
    advantages = advantages_of(rows).to(model.device)

    def run() -> None:
        forests = share_prefixes(rows, [0] * len(rows)) if tree else separate(rows)
        for part in score(model, rows, forests, width=width, temperature=1.0, token_budget=token_budget):
            members = list(part.rows)
            policy_loss(
                part.logprobs_BT,
                old_logprobs_BT=part.logprobs_BT.detach(),
                advantages_B=advantages[members],
                weights_BT=weights[members],
                objective=GRPO,
            ).backward()

    return run


def floor(model: Any, rows: Sequence[TokenRow]) -> Pass:
    unique = build_forest([row.ids for row in rows]).ids_N
    ids = torch.from_numpy(unique).to(model.device)[None]
    trained = len(rows) * sum(rows[0].trained)

    def run() -> None:
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, -trained - 1 :]
        logits = model.get_output_embeddings()(hidden[:-1]).float()
        logits.log_softmax(dim=-1).gather(1, ids[0, -trained:, None]).mean().backward()

    return run


def trl(model: Any, rows: Sequence[TokenRow]) -> Pass:
    """`GRPOTrainer._compute_loss`, a row at a time: nothing padded, and the least memory it can do with."""
    import trl.trainer.utils as trl_utils
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from fission_grpo.models.nano import build_tokenizer

    # Off CUDA it scores every position at the LM head, the prompt's too; with this, the completion's alone.
    trl_utils._use_triton = lambda device: True
    cuda = model.device.type == "cuda"
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=not cuda,
            bf16=False,
            beta=0.0,
            loss_type="grpo",
            per_device_train_batch_size=GROUP,
            num_generations=GROUP,
            gradient_checkpointing=False,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * GROUP),
        processing_class=build_tokenizer(["a"]),
    )
    advantages = advantages_of(rows).to(model.device)
    batches = []
    for index, row in enumerate(rows):
        ids = torch.tensor([row.ids], device=model.device)
        start = row.trained.index(True)
        batches.append(
            {
                "prompt_ids": ids[:, :start],
                "prompt_mask": torch.ones_like(ids[:, :start]),
                "completion_ids": ids[:, start:],
                "completion_mask": torch.ones_like(ids[:, start:]),
                "advantages": advantages[index : index + 1],
                "num_items_in_batch": torch.tensor(1.0),
            }
        )

    def run() -> None:
        for inputs in batches:
            # In evaluation mode the trainer leaves the division by the number of micro-batches to us.
            (trainer._compute_loss(model, inputs) / len(batches)).backward()

    return run


def advantages_of(rows: Sequence[TokenRow]) -> torch.Tensor:
    return torch.linspace(-1.5, 1.0, len(rows))


def sides(options: argparse.Namespace, rows: Sequence[TokenRow]) -> dict[str, tuple[Any, Pass]]:
    """A model and a pass for each side that was asked for."""
    model = build_model(options)
    made: Mapping[str, Callable[[], tuple[Any, Pass]]] = {
        "tree": lambda: (model, ours(model, rows, tree=True, token_budget=options.token_budget)),
        "floor": lambda: (model, floor(model, rows)),
        "rows": lambda: (model, ours(model, rows, tree=False, token_budget=options.token_budget)),
        "trl": lambda: (own := copy.deepcopy(model), trl(own, rows)),
    }
    return {name: made[name]() for name in options.sides}


def timed(run: Pass, model: Any) -> float:
    """CPU seconds, or seconds on the device."""
    model.zero_grad()
    if model.device.type != "cuda":
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
    ((model, run),) = sides(options, case.rows(options.vocabulary)).values()
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else resident_mib()
    run()
    after = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident_mib("VmHWM")
    print(after - before)


def resident_mib(kind: str = "VmRSS") -> float:
    """Of this process alone: `ru_maxrss` would begin with what its parent held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024


def measure(options: argparse.Namespace, case: Case) -> Result:
    rows = case.rows(options.vocabulary)
    forest = build_forest([row.ids for row in rows])
    result = Result(case=case, raw_tokens=forest.raw_tokens, unique_tokens=len(forest), load=os.getloadavg())
    runs = sides(options, rows)
    gradients: dict[str, list[torch.Tensor]] = {}
    for _ in range(options.rounds):
        for name, (model, run) in runs.items():
            result.seconds.setdefault(name, []).append(timed(run, model))
            if name not in gradients and name != "floor":
                gradients[name] = [parameter.grad.float().clone() for parameter in model.parameters()]
            print(f"{case} {name}: {result.seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    for name, theirs in gradients.items():
        result.gradient_difference[name] = max(
            ((one - other).abs().max() / other.abs().max()).item()
            for one, other in zip(theirs, gradients["tree"], strict=True)
        )
    del runs, gradients
    if not options.no_peak:
        result.peak_mib = {name: peak_mib(options, case, name) for name in options.sides}
    return result


def table(results: Sequence[Result]) -> str:
    lines = ["| P | C | fission | raw | unique | side | s | times the tree | peak MiB |", "|" + "---|" * 9]
    for result in results:
        for side, seconds in result.seconds.items():
            case, peak = result.case, result.peak_mib.get(side)
            lines.append(
                f"| {case.prompt} | {case.completion} | {'yes' if case.fission else 'no'} | {result.raw_tokens} "
                f"| {result.unique_tokens} | {side} | {median(seconds):.2f} | {result.times_the_tree(side):.2f} "
                f"| {'' if peak is None else round(peak)} |"
            )
    return "\n".join(lines)


def draw(results: Sequence[Result], path: Path) -> None:
    from matplotlib.figure import Figure

    names = [side for side in results[0].seconds if side != "tree"]
    figure = Figure(figsize=(2.2 + 1.1 * len(results), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for place, side in enumerate(names):
        at = [index + 0.8 * (place + 0.5) / len(names) - 0.4 for index in range(len(results))]
        bars = axes.bar(at, [result.times_the_tree(side) for result in results], 0.75 / len(names), label=side)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8)
    cases = [result.case for result in results]
    axes.set_xticks(
        range(len(cases)), [f"P={c.prompt}\nC={c.completion}{' +fission' if c.fission else ''}" for c in cases]
    )
    axes.set_ylabel("time, in passes of the tree")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, nargs="+", default=[512, 2000, 6000])
    parser.add_argument("--completion", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--fission", choices=["with", "without", "both"], default="both")
    parser.add_argument("--sides", nargs="+", choices=["tree", "floor", "rows", "trl"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peak", action="store_true")
    parser.add_argument("--only-peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.sides = options.sides or ["tree", "floor", "rows", *(["trl"] if find_spec("trl") else [])]
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    with_fission = {"with": [True], "without": [False], "both": [False, True]}[options.fission]
    cases = [Case(p, c, fission) for p in options.prompt for c in options.completion for fission in with_fission]
    if options.only_peak:
        print_peak(options, cases[0])
        return
    results = []
    for case in cases:
        results.append(measure(options, case))
        if options.json:
            written = {"cpu": platform.processor(), "torch": torch.__version__, "options": vars(options)}
            options.json.write_text(
                json.dumps(written | {"results": [asdict(result) for result in results]}, indent=1, default=str)
            )
    print(table(results))
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
