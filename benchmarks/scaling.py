"""What environments cost inside verl, by the number of workers that play them: seconds, bytes, memory. Without a model.

    python benchmarks/scaling.py                      1, 2, 4 and 8 workers, in the BFCL worlds of recipe nano
    python benchmarks/scaling.py --ranks 1 8 64       how many tokens the fullest of so many GPUs computes
    python benchmarks/scaling.py --apis Calendar,Bank --workers 1 8 --tasks 16

Each worker is a process of its own with our half of verl's agent loop (`DialoguePlayer`), as one of Ray is. Answers
are scripted: in every task the gold calls of its first turn, then a call that fails, then words. All rows go to the
driver, which observes the failures and sends the contexts back to be recovered from: once with the snapshot of the
world, and once without, by replaying its calls. Seconds are of the wall and of a processor; the load is told.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from statistics import median

import psutil

from fission_grpo import recipe
from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group
from fission_grpo.assembly import Groundwork, lay_groundwork
from fission_grpo.chat.parse import render_call
from fission_grpo.engines.forest_passes import dealt, unique_tokens
from fission_grpo.engines.player import DialoguePlayer, packed_member, packed_start, unpacked_member
from fission_grpo.types import GroupKind, Task, ToolCall

FEEDBACK = 40
UNKNOWN = ToolCall(name="no_such_tool", arguments={})


@dataclass(frozen=True, slots=True)
class Played:
    """What one dialogue took, and what is sent of it."""

    row: bytes
    begun: float
    """Seconds until the world stood."""
    whole: float
    processor: float


@cache
def ground_of(apis: str, tasks: int) -> Groundwork:
    """Tasks, worlds and judge; made once in each process."""
    changes = {} if apis == "nano" else {"synthetic.apis": tuple(apis.split(","))}
    return lay_groundwork(
        recipe("nano", {"synthetic.count": tasks, "fission.contexts": tasks, "fission.trigger": 1, **changes})
    )


@cache
def player_of(apis: str, tasks: int) -> DialoguePlayer:
    ground = ground_of(apis, tasks)
    settings = ground.settings
    return DialoguePlayer(
        chat=ground.chat,
        environments=ground.environments,
        judge=ground.judge,
        horizon=settings.trainer.horizon,
        recovery_horizon=settings.fission.horizon,
        rollouts=settings.rollouts,
        window=16384,
    )


def ready(apis: str, tasks: int) -> int:
    """Make all that a worker keeps; the process it is in."""
    player_of(apis, tasks)
    time.sleep(1)  # so that the next worker is asked for this, too
    return os.getpid()


def play(apis: str, tasks: int, start: bytes, texts: Sequence[str]) -> Played:
    """One dialogue, message by message."""
    player = player_of(apis, tasks)
    began, processor = time.perf_counter(), time.process_time()
    dialogue = player.begin(start)
    begun = time.perf_counter() - began
    for text in texts:
        if dialogue.dialogue.context is None:
            break
        ids = (*player.chat.renderer.encode(text), player.chat.eos_id)
        dialogue.dialogue.advance(player.completion(ids, [-0.5] * len(ids)))
    row = packed_member(player.judged(dialogue, progress=0.5))
    return Played(row, begun, time.perf_counter() - began, time.process_time() - processor)


def script(task: Task) -> list[str]:
    """The gold calls of the first turn, a failure, and words."""
    return [*(render_call(call) for call in task.gold[0]), render_call(UNKNOWN), "Done."]


def contexts_of(
    ground: Groundwork, played: Sequence[Played], tasks: Sequence[Task], size: int
) -> list[CorrectiveContext]:
    """What the driver makes of the rows: one context for each group that failed."""
    members = [unpacked_member(one.row) for one in played]
    groups = [
        Group(
            id=f"0/exploration/0.{index}",
            kind=GroupKind.EXPLORATION,
            task=task,
            members=tuple(members[index * size : (index + 1) * size]),
            context=None,
        )
        for index, task in enumerate(tasks)
    ]
    ground.source.observe(groups, policy_version=0)
    return ground.source.next_contexts()


def told(name: str, values: Sequence[float], unit: str, scale: float = 1.0) -> str:
    ordered = sorted(value * scale for value in values)
    return f"{name} {median(ordered):,.1f} {unit} (at most {ordered[-1]:,.1f})"


def measure(workers: int, options: argparse.Namespace) -> None:
    """Print what so many workers make of a step."""
    ground = ground_of(options.apis, options.tasks)
    chosen = [task for task in ground.tasks if task.world and task.gold[0]][: options.tasks]
    given = (options.apis, options.tasks)
    rows = [(packed_start(task), script(task)) for task in chosen for _ in range(options.group)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        homes = {one.result() for one in [pool.submit(ready, *given) for _ in range(2 * workers)]}
        began = time.perf_counter()
        played = [one.result() for one in [pool.submit(play, *given, *row) for row in rows]]
        wall = time.perf_counter() - began
        begun_here = time.process_time()
        contexts = contexts_of(ground, played, chosen, options.group)
        driver = time.process_time() - begun_here
        kinds = {
            "snapshot": [packed_start(context) for context in contexts],
            "replay": [packed_start(replace(context, snapshot=None)) for context in contexts],
        }
        back = {
            kind: [one.result() for one in [pool.submit(play, *given, packed, ["Done."]) for packed in starts]]
            for kind, starts in kinds.items()
        }
        memory = [psutil.Process(home).memory_full_info() for home in homes]
    print(f"\n{workers} workers: {len(rows)} dialogues in {wall:.2f} s, {len(rows) / wall:.1f} a second")
    print("  " + told("a dialogue", [one.processor for one in played], "ms of a processor", 1e3))
    print("  " + told("a world begun", [one.begun for one in played], "ms", 1e3))
    for kind, found in back.items():
        print("  " + told(f"a world brought back by {kind}", [one.begun for one in found], "ms", 1e3))
    print("  " + told("a row to the driver", [len(one.row) for one in played], "KB", 1e-3))
    print("  " + told("a context with its snapshot", [len(one) for one in kinds["snapshot"]], "KB", 1e-3))
    print("  " + told("a context without", [len(one) for one in kinds["replay"]], "KB", 1e-3))
    print(
        "  " + told("a context in a checkpoint", [len(pickle.dumps(one.state_dict())) for one in contexts], "KB", 1e-3)
    )
    print(f"  the driver: {driver / len(rows) * 1e3:.2f} ms of a processor for a row")
    print(f"  {len(contexts)} questions to the simulator")
    print("  " + told("memory of a worker alone", [one.uss for one in memory], "MiB", 2**-20))


def deal(options: argparse.Namespace) -> None:
    """Print what the fullest rank computes, with the tree and without: families of a group and its recoveries."""
    dice = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [dice.randrange(150_000) for _ in range(count)]

    rows: list[list[int]] = []
    for _ in range(options.tasks):
        prompt = tokens(options.prompt)
        explored = [[*prompt, *tokens(dice.randint(options.answer // 4, options.answer))] for _ in range(options.group)]
        context = [*explored[0], *tokens(FEEDBACK)]
        recovered = [
            [*context, *tokens(dice.randint(options.answer // 4, options.answer))] for _ in range(options.group)
        ]
        rows += [*explored, *recovered]
    print(f"{len(rows)} rows of {sum(map(len, rows)):,} tokens, {unique_tokens(rows):,} of them unique")
    for ranks in options.ranks:
        fullest = max(unique_tokens([rows[index] for index in part]) for part in dealt(rows, ranks))
        even = sum(map(len, rows)) / ranks  # verl evens out lengths, and no row can be cut
        print(
            f"{ranks:4} ranks: {fullest:9,} tokens on the fullest, {even:11,.0f} without, {even / fullest:5.1f} times"
        )


def main() -> None:
    """Measure one number of workers after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tasks", type=int, default=8, help="groups of a step")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--apis", default="nano", help="worlds to draw tasks over: nano's own, or names with commas")
    parser.add_argument("--ranks", type=int, nargs="+", help="only deal rows to so many GPUs")
    parser.add_argument("--prompt", type=int, default=6000, help="tokens, of rows that are dealt")
    parser.add_argument("--answer", type=int, default=1024, help="most tokens, of rows that are dealt")
    options = parser.parse_args()
    if options.ranks:
        deal(options)
        return
    print(f"{os.cpu_count()} processors; load of the machine: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")
    for workers in options.workers:
        measure(workers, options)


if __name__ == "__main__":
    main()
