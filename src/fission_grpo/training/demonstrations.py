"""Supervised error-and-fix demonstrations: the strong, cheap baseline that reinforcement has to be seen beside.

A gold dialogue is corrupted at one position by a call with a real explicit error; the gold call behind it is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from random import Random

from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.base import Environments
from fission_grpo.tasks.gold_chain import canonical
from fission_grpo.tasks.probe import ProbeItem, ProbeKind, can_be_probed, probe_items
from fission_grpo.training.dialogues import gold_dialogue, next_message
from fission_grpo.types import Task, TokenRow

CLEAN_SHARE = 9
"""Clean gold dialogues for each demonstration: recovering must not be learned at the price of everything else."""


def demonstration_rows(
    tasks: Sequence[Task],
    *,
    count: int,
    seed: int,
    chat: ChatFormat,
    environments: Environments,
    clean: int | None = None,
    rounds: int = 1,
) -> list[TokenRow]:
    """Up to `count` demonstrations, half of them premature calls only, among clean rows.

    Args:
        tasks: training tasks that can be probed or have no world. Fewer than the clean rows are shown again and again.
        clean: gold dialogues without an error; nine for each demonstration unless given.
        rounds: how often errors are drawn from the same tasks, for those who have few.
    """
    rng = Random(seed)
    wanted = {ProbeKind.PRECONDITION: count // 2, ProbeKind.MIXED: count - count // 2}
    to_corrupt = {ProbeKind.PRECONDITION: tasks, ProbeKind.MIXED: tasks[: 2 * count]}
    corrupted = [
        item
        for kind, most in wanted.items()
        for item in islice(_errors(to_corrupt[kind], seed, kind, environments, rounds), most)
    ]
    rows = [next_message(item.task, chat=chat) for item in corrupted if item.task.target]
    shown = CLEAN_SHARE * len(rows) if clean is None else clean
    dialogues = [gold_dialogue(task, chat=chat, environments=environments) for task in tasks[:shown]]
    rows += islice(cycle(dialogues), shown)
    rng.shuffle(rows)
    return rows


def _errors(
    tasks: Sequence[Task], seed: int, kind: ProbeKind, environments: Environments, rounds: int
) -> Iterator[ProbeItem]:
    """Injected errors, each once: a later round may draw what an earlier one has drawn."""
    fit = [task for task in tasks if can_be_probed(task)]
    seen: set[str] = set()
    for later in range(rounds):
        for item in probe_items(fit, seed + later, kind, environments=environments):
            mark = canonical([item.task.messages, item.task.target])
            if mark not in seen:
                seen.add(mark)
                yield item
