"""What an arm is evaluated on: held-out episodes and fixed-error probes, the same for every arm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from fission_grpo.tasks.probe import ProbeItem, ProbeKind, probe_items
from fission_grpo.tasks.synthesis.families import HELDOUT_APIS, SEEN_APIS
from fission_grpo.tasks.synthesis.generator import Mixture, Split, synthesise
from fission_grpo.types import Task

HIDDEN_SHARE = 4
"""Tasks drawn for each precondition probe item: only some worlds miss something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Tasks and probes of one split."""

    episodes: tuple[Task, ...]
    transfer: tuple[Task, ...]
    """Episodes on an API that was never trained on."""
    mixed: tuple[ProbeItem, ...]
    """All kinds of injected errors, balanced over error classes."""
    precondition: tuple[ProbeItem, ...]
    """The natural premature call only."""


@lru_cache(maxsize=2)
def build_suite(
    *,
    split: Split = Split.HELDOUT,
    seed: int = 0,
    size: int = 300,
    apis: tuple[str, ...] = SEEN_APIS,
    mixture: Mixture | None = None,
    tools: tuple[int, int] = (6, 8),
) -> Suite:
    """A function of its arguments: every arm, everywhere, meets the same suite. A process builds it once.

    Args:
        split: HELDOUT is what is reported; VALIDATION is for choosing settings, and holds no transfer slice.
        size: episodes, and items of each probe; the transfer slice has a third as many.
    """
    episodes = synthesise(seed, size, apis=apis, split=split, mixture=mixture, tools=tools)
    probed = synthesise(seed + 1, size * HIDDEN_SHARE, apis=apis, split=split, mixture=mixture, tools=tools)
    transfer: list[Task] = []
    if split is Split.HELDOUT:
        transfer = synthesise(seed, size // 3, apis=HELDOUT_APIS, split=split, mixture=mixture, tools=tools)
    return Suite(
        episodes=tuple(episodes),
        transfer=tuple(transfer),
        mixed=tuple(probe_items(probed[:size], seed, ProbeKind.MIXED)),
        precondition=tuple(islice(probe_items(probed, seed, ProbeKind.PRECONDITION), size)),
    )
