"""Processor seconds of a driver inside verl for fission, in a step of the paper's size, without Ray or a model.

    python benchmarks/verl_driver.py                   8 x 8 explorations and 8 x 8 recoveries, prompts of 6,000 tokens
    python benchmarks/verl_driver.py --step 300        their share of a step of 300 s

Answers are random tokens as long as they may be; every one is cut off, so that every group has a failure and all
contexts are recovered from. Worlds are real, and so is the judge; they are the workers' and not counted. What Ray and
TransferQueue take to bring rows to the driver is not in here: see the `fission` of `gpu_verl.py`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fission_grpo import recipe
from fission_grpo.algorithm.context import CorrectiveContext
from fission_grpo.algorithm.groups import Group
from fission_grpo.algorithm.losses import OBJECTIVES
from fission_grpo.assembly import lay_groundwork
from fission_grpo.engines.player import DialoguePlayer, packed_member, packed_start, unpacked_member
from fission_grpo.engines.verl.state import write_buffer
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.metrics import fission_metrics, group_metrics
from fission_grpo.run.traces import trace
from fission_grpo.types import GroupKind, Task

SECONDS: dict[str, float] = {}


@contextmanager
def counted(name: str) -> Iterator[None]:
    begin = time.process_time()
    yield
    SECONDS[name] = SECONDS.get(name, 0.0) + time.process_time() - begin


def longer(task: Task, tokenizer: object, tokens: int) -> Task:
    """The same behind a preface of about so many tokens."""
    line = " Read the manual of every tool before you call it."
    times = tokens // len(tokenizer(line)["input_ids"])  # type: ignore[operator]
    return replace(task, messages=({"role": "system", "content": line * times}, *task.messages))


def played(player: DialoguePlayer, given: bytes, *, length: int, dice: random.Random) -> bytes:
    """What a worker does."""
    play = player.begin(given)
    while play.dialogue.context is not None:
        ids = [dice.randrange(100, 400) for _ in range(length)]
        play.dialogue.advance(player.completion(ids, [-1.0] * length))
    return packed_member(player.judged(play, progress=0.5))


def group(kind: GroupKind, index: int, packed: list[bytes], context: CorrectiveContext | None) -> Group:
    """What the driver does with the rows of one."""
    with counted("rows become groups"):
        members = tuple(unpacked_member(one) for one in packed)
        return Group(
            id=f"0/{kind.value}/0.{index}", kind=kind, task=members[0].trajectory.task, members=members, context=context
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=6000, help="tokens, about")
    parser.add_argument("--answer", type=int, default=4096, help="tokens")
    parser.add_argument("--step", type=float, default=120.0, help="seconds of a whole step")
    options = parser.parse_args()
    settings = recipe("paper", {"model": "nano", "rollouts.max_tokens": 64})  # nano's own window is short
    ground, dice = lay_groundwork(settings), random.Random(0)
    player = DialoguePlayer(
        chat=ground.chat,
        environments=ground.environments,
        judge=ground.judge,
        horizon=settings.trainer.horizon,
        recovery_horizon=settings.fission.horizon,
        rollouts=settings.rollouts.model_copy(update={"max_tokens": options.answer}),
        window=options.prompt + 4 * options.answer,
    )
    size = settings.trainer.group_size

    def rows(given: bytes) -> list[bytes]:
        return [played(player, given, length=options.answer, dice=dice) for _ in range(size)]

    tasks = [longer(task, ground.chat.tokenizer, options.prompt) for task in ground.tasks[: settings.trainer.queries]]
    explored = [rows(packed_start(task)) for task in tasks]
    groups = [group(GroupKind.EXPLORATION, index, packed, None) for index, packed in enumerate(explored)]
    with counted("failures become contexts"):
        ground.source.observe(groups, policy_version=0)
        contexts = ground.source.next_contexts()
    with counted("contexts are sent"):
        asked = [packed_start(context) for context in contexts]
    recovered = [rows(given) for given in asked]
    fission_groups = [
        group(GroupKind.FISSION, index, packed, context)
        for index, (packed, context) in enumerate(zip(recovered, contexts, strict=True))
    ]
    with counted("failures become contexts"):
        ground.source.observe(fission_groups, policy_version=0)
    with counted("metrics"):
        group_metrics(groups)
        fission_metrics(fission_groups, ground.source, 0)
    with tempfile.TemporaryDirectory() as folder:
        run, scale = RunFolder(Path(folder)), OBJECTIVES[settings.trainer.objective].scale
        with counted("traces are written"):
            run.append(run.traces, (trace(one, step=0, scale=scale) for one in [*groups, *fission_groups]))
        with counted("the buffer is written"):
            write_buffer(run.checkpoints, ground.source.state_dict())
    longest = max(len(one.trajectory.ids) for each in [*groups, *fission_groups] for one in each.members)
    for name, seconds in SECONDS.items():
        print(f"{name:<26} {seconds:8.3f} s")
    total = sum(SECONDS.values())
    count = sum(len(each.members) for each in [*groups, *fission_groups])
    print(f"{count} trajectories of up to {longest:,} tokens, {len(contexts)} contexts")
    print(f"{total:.2f} s, {total / options.step:.2%} of a step of {options.step:g} s")


if __name__ == "__main__":
    main()
