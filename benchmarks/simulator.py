"""What feedback costs a training step of the quickstart: seconds of `observe`, and their share of the whole step.

    python benchmarks/simulator.py --steps 6
    python benchmarks/simulator.py --steps 6 --model runs/simulator      # a folder made by `fission simulator train`

One trainer for each simulator; with the same seed they take turns, step by step, so that all meet the same load of the
machine. `observe` is everything between judged trajectories and corrective contexts. `endpoint` is a server on this
machine that answers each request after `--latency` seconds, asked in the background; `foreground` is the same server
with nothing done meanwhile.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from step import trainer

from fission_grpo.config import RunSettings
from fission_grpo.recipes import Recipe, load_recipe
from fission_grpo.recipes.arms import Arm, apply_arm
from fission_grpo.simulator.endpoint import EndpointWriter
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.training.trainer import Trainer

ARMS = (Arm.FISSION_DECISION, Arm.FISSION)
SIMULATORS = ("rules", "static", "passthrough", "endpoint", "foreground")
ANSWER = {"choices": [{"message": {"content": "the runtime does not take this call"}, "finish_reason": "stop"}]}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--arms", type=Arm, nargs="+", default=ARMS, choices=list(Arm))
    arguments.add_argument("--steps", type=int, default=6)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--simulators", nargs="*", default=SIMULATORS, choices=SIMULATORS)
    arguments.add_argument("--model", help="folder of a trained simulator, to be measured as well")
    arguments.add_argument("--latency", type=float, default=1.0, help="seconds of the server for an answer")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory() as folder, serving(given.latency) as url:
        server = {"simulator": "endpoint", "simulator_endpoint": {"server": {"url": url, "model": "any"}}}
        local = {"simulator": "model", "simulator_model": {"model": given.model}}
        changes: dict[str, Mapping[str, Any]] = {
            name: server if name in ("endpoint", "foreground") else {"simulator": name} for name in given.simulators
        }
        if given.model:
            changes["model"] = local
        found = {str(arm): measure(arm, changes, given.steps, Path(folder)) for arm in given.arms}
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for arm, by_simulator in found.items():
        for name, row in by_simulator.items():
            print(f"{arm:<17} {name:<12} " + "  ".join(f"{key} {value:8.3f}" for key, value in row.items()))


def measure(
    arm: Arm, changes: Mapping[str, Mapping[str, Any]], steps: int, folder: Path
) -> dict[str, dict[str, float]]:
    """Means over the steps after the first, for each simulator: its seconds, those of a step, the share, and cases."""
    settings = apply_arm(arm, load_recipe(Recipe.NANO))
    # An arm says which simulator it means: another one is set behind it.
    trainers = {
        name: trainer(RunSettings.model_validate({**settings.model_dump(), **change}), folder / f"{arm}-{name}")
        for name, change in changes.items()
    }
    if "foreground" in trainers:
        nobody_else(trainers["foreground"])
    seconds: dict[str, list[Mapping[str, float]]] = {name: [] for name in trainers}
    for _ in range(steps):
        for name, one in trainers.items():
            one.step()
            seconds[name].append(one.clock.seconds)
    return {name: row(seconds[name][1:], trainers[name].source.count.observed / steps) for name in trainers}


def nobody_else(trainer: Trainer) -> None:
    """Have the server waited for."""
    simulator = trainer.source.simulator
    assert isinstance(simulator, LeakGuardedSimulator)
    assert isinstance(simulator.writer, EndpointWriter)
    simulator.writer.remote = False


def row(steps: list[Mapping[str, float]], cases: float) -> dict[str, float]:
    """Sums before shares, so that long steps count as what they are."""
    observe, whole = (sum(map(f, steps)) / len(steps) for f in (lambda s: s["observe"], lambda s: sum(s.values())))
    return {"observe_s": observe, "step_s": whole, "share_%": 100 * observe / whole, "cases_a_step": cases}


@contextmanager
def serving(latency: float) -> Iterator[str]:
    """A server that takes its time; gives its address."""

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(latency)
            body = json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
