"""Supervised error-and-fix demonstrations: the strong, cheap baseline that reinforcement has to be seen beside.

A gold dialogue is corrupted at one position by a call with a real explicit error; the gold call behind it is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from random import Random

from fission_grpo.chat.format import ChatFormat
from fission_grpo.environments.base import Environments
from fission_grpo.tasks.probe import ProbeKind, probe_items
from fission_grpo.training.supervised import gold_dialogue, next_message
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
) -> list[TokenRow]:
    """Up to `count` demonstrations, half of them premature calls only, among clean rows.

    Args:
        tasks: training tasks, at least ten times `count`, and `clean`.
        clean: gold dialogues without an error; nine for each demonstration unless given.
    """
    rng = Random(seed)
    corrupted = [
        *islice(probe_items(tasks, seed, ProbeKind.PRECONDITION), count // 2),
        *islice(probe_items(tasks[: 2 * count], seed, ProbeKind.MIXED), count - count // 2),
    ]
    rows = [next_message(item.task, chat=chat) for item in corrupted if item.task.target]
    shown = tasks[: CLEAN_SHARE * len(rows) if clean is None else clean]
    rows += [gold_dialogue(task, chat=chat, environments=environments) for task in shown]
    rng.shuffle(rows)
    return rows
