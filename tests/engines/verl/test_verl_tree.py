"""The tree inside verl's FSDP2 engine: log-probabilities, entropies, losses and gradients are verl's own.

`tree_on_ranks.py` runs verl's engine in processes of its own, on one rank and on two over gloo.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transfer_queue
from on_cpu import environment
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from tree_on_ranks import CASES, rows_of
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.workers.engine.base import EngineRegistry

from fission_grpo.commands.verl_plugin import RunTrainer
from fission_grpo.engines.verl.contract import require_proved_verl
from fission_grpo.engines.verl.tree_engine import SHARE, PrefixTreeEngine
from fission_grpo.engines.verl.tree_rows import PrefixTreeRows

HERE = Path(__file__).parent
EXACT = sorted(set(CASES) - {"bfloat16", "sliding", "experts", "off"})
UNIQUE = {0: 63, 1: 66}
"""Tokens of each rank's forest: a prompt of 14 (17 on the second), answers 9 + 1 + 7 + 5 beside what they share, 4 of
feedback, recoveries 6 + 1 + 4 + 8 + 2 + 3, less one with which two of them begin by chance."""
pytestmark = pytest.mark.timeout(900)  # the processes are started by the first test


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Any]:
    """(ranks, rank) -> what it has computed: by verl, by the tree, and what was logged."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(HERE / "tree_on_ranks.py"), str(folder)]
    told = {**os.environ, **environment(), "VERL_USE_EXTERNAL_MODULES": "cpu_platform,cpu_tree"}
    found = {}
    for count in (1, 2):
        processes = [
            subprocess.Popen(
                [*command, str(rank), str(count)], env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for rank in range(count)
        ]
        said = [process.communicate()[0].decode(errors="replace") for process in processes]
        assert [process.returncode for process in processes] == [0] * count, "\n".join(said)[-4000:]
        for rank in range(count):
            found[count, rank] = torch.load(folder / f"{count}.{rank}.pt", weights_only=False)
    return found


PLACES = [(1, 0), (2, 0), (2, 1)]


def unique_of(rank: int) -> int:
    """Different (prefix, token) pairs of the rows, up to the last trained token of each."""
    nodes = set()
    for prompt, response, mask in rows_of(rank):
        trained = [place for place, one in enumerate(mask) if one]
        row = (*prompt, *response[: trained[-1] + 1]) if trained else ()
        nodes |= {row[: place + 1] for place in range(len(row))}
    return len(nodes)


def scored(rank: int, values: list[torch.Tensor]) -> torch.Tensor:
    """Of trained tokens: each stands where its parent does."""
    found = []
    for (prompt, _, mask), row in zip(rows_of(rank), values, strict=True):
        found.append(row[len(prompt) - 1 : -1][torch.tensor(mask).bool()])
    return torch.cat(found)


@pytest.mark.parametrize("place", PLACES, ids=["one rank", "first of two", "second of two"])
@pytest.mark.parametrize("case", EXACT)
def test_everything_is_verl_s_own(case: str, place: tuple[int, int], ranks: dict[tuple[int, int], Any]) -> None:
    verl, tree, said = ranks[place][case]
    rank = place[1]
    assert said == []
    for name in ("log_probs", "entropy"):
        found, expected = scored(rank, tree[name]), scored(rank, verl[name])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert found.abs().min() > 0
        assert [len(row) for row in tree[name]] == [len(row) for row in verl[name]]
    assert tree["loss"] == pytest.approx(verl["loss"], abs=1e-5)
    torch.testing.assert_close(tree["gradient"], verl["gradient"], atol=1e-6, rtol=0)
    assert verl["gradient"].abs().max() > 1e-3
    assert set(tree["metrics"]) == {*verl["metrics"], "prefix_tree/sharing"}
    for name in ("actor/pg_loss", "actor/entropy_loss"):
        assert tree["metrics"][name] == pytest.approx(verl["metrics"][name], abs=1e-5)


def test_each_unique_token_is_computed_once(ranks: dict[tuple[int, int], Any]) -> None:
    for count, rank in PLACES:
        verl, tree, _ = ranks[count, rank]["packed"]
        held = sum(len(prompt) + len(response) for prompt, response, _ in rows_of(rank))
        assert unique_of(rank) == UNIQUE[rank]
        assert verl["passes"] == [held, held]  # old log-probabilities, and the update
        assert tree["passes"] == [UNIQUE[rank]] * 2
        assert tree["metrics"]["prefix_tree/sharing"] == pytest.approx(held / UNIQUE[rank])


def test_a_budget_counts_unique_tokens_and_ranks_make_as_many_passes(ranks: dict[tuple[int, int], Any]) -> None:
    for case in ("cut", "again"):
        for count, rank in PLACES:
            verl, tree, _ = ranks[count, rank][case]
            assert max(tree["passes"]) <= CASES[case]["max_token_len_per_gpu"]
            assert len(tree["passes"]) < len(verl["passes"])
        assert len(ranks[2, 0][case][1]["passes"]) == len(ranks[2, 1][case][1]["passes"])


def test_in_bfloat16_both_round_in_their_own_way(ranks: dict[tuple[int, int], Any]) -> None:
    for place in PLACES:
        verl, tree, said = ranks[place]["bfloat16"]
        assert said == []
        torch.testing.assert_close(
            scored(place[1], tree["log_probs"]), scored(place[1], verl["log_probs"]), atol=0.05, rtol=0
        )
        torch.testing.assert_close(tree["gradient"], verl["gradient"], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("case", "named"), [("sliding", "layers of type sliding_attention"), ("experts", "the auxiliary loss of qwen3_moe")]
)
def test_what_cannot_share_is_left_to_verl_and_told_once(
    case: str, named: str, ranks: dict[tuple[int, int], Any]
) -> None:
    for count, rank in PLACES:
        verl, tree, said = ranks[count, rank][case]
        assert [named in line for line in said] == ([True] if rank == 0 else [])
        assert torch.equal(tree["gradient"], verl["gradient"])
        assert tree["passes"] == verl["passes"]


def test_the_switch_leaves_everything_to_verl(ranks: dict[tuple[int, int], Any]) -> None:
    verl, tree, said = ranks[1, 0]["off"]
    assert said == []
    assert torch.equal(tree["gradient"], verl["gradient"])
    assert tree["passes"] == verl["passes"]
    assert set(tree["metrics"]) == set(verl["metrics"])


def test_the_model_has_its_own_attention_back(ranks: dict[tuple[int, int], Any]) -> None:
    assert {pair[1]["attention"] for found in ranks.values() for pair in found.values()} == {"sdpa"}


# The driver's half


class Queue:
    """verl's queue as far as a deal needs it: rows by key."""

    def __init__(self, rows: list[tuple[list[int], list[int], list[int]]]) -> None:
        self.rows = {f"u{index}_0_0": row for index, row in enumerate(rows)}

    def get(self, keys: list[str], partition_id: str, select_fields: list[str] | None = None) -> TensorDict:
        rows = [self.rows[key] for key in keys]
        columns = {
            "prompts": [torch.tensor(prompt) for prompt, _, _ in rows],
            "input_ids": [torch.tensor([*prompt, *response]) for prompt, response, _ in rows],
            "response_mask": [torch.tensor(mask) for _, _, mask in rows],
        }
        ragged = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in columns.items()}
        return TensorDict(ragged, batch_size=[len(rows)])

    def put(self, keys: list[str], **given: Any) -> None:
        self.rows |= dict.fromkeys(keys, ([1] * 127, [1], [0]))


class Plain:
    """The methods of verl's trainer that the driver's half stands before."""

    actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0, 1]})
    tokenizer = SimpleNamespace(eos_token_id=1)

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def _get_required_batch_multiple(self, ranks: int) -> int:
        return ranks

    def _balance_batch(self, batch: KVBatchMeta, *given: Any, **named: Any) -> KVBatchMeta:
        return batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        self.asked.append(batch.extra_info[SHARE])
        return batch

    _compute_old_log_prob = _compute_ref_log_prob = _update_actor


class Tree(PrefixTreeRows, Plain):
    pass


def step_of(monkeypatch: pytest.MonkeyPatch, families: list[list[int]]) -> tuple[KVBatchMeta, Queue]:
    """One row of four new tokens for each entry: the length of what it shares with its family."""
    rows = []
    for number, shared in enumerate(families):
        rows += [([100 + number] * length, [place] * 4, [1] * 4) for place, length in enumerate(shared, start=1)]
    queue = Queue(rows)
    monkeypatch.setattr(transfer_queue, "kv_batch_get", queue.get)
    monkeypatch.setattr(transfer_queue, "kv_batch_put", queue.put)
    keys = list(queue.rows)[::2] + list(queue.rows)[1::2]  # as they happen to be finished
    return KVBatchMeta(keys=keys, tags=[{"seq_len": 9}] * len(keys), partition_id="train"), queue


def test_a_family_stays_on_one_rank_and_padding_fills_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of 20 shared tokens, and a group of four and its two recoveries of 12: 32 and 44 unique tokens."""
    batch, queue = step_of(monkeypatch, [[20, 20, 20], [12, 12, 12, 12, 20, 20]])
    metrics: dict[str, Any] = {}
    dealt = Tree()._balance_batch(batch, metrics)
    assert len(dealt) == 12  # six rows on each of the two ranks
    sides = [[queue.rows[key] for key in dealt.keys[begin : begin + 6]] for begin in (0, 6)]
    assert {row[0][0] for row in sides[0] if any(row[2])} == {100}
    assert {row[0][0] for row in sides[1]} == {101}
    assert [any(row[2]) for row in sides[0]] == [True] * 3 + [False] * 3
    assert metrics["prefix_tree/tokens_max"] == 20 + 4 * 4 + 2 * 4  # a recovery goes on where its family's rows end
    assert metrics["prefix_tree/tokens_mean"] == (32 + 44) / 2


def test_a_group_is_cut_where_other_ranks_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of eight on two ranks: 4 + 8 * 4 unique tokens on one of them, or 4 + 4 * 4 on each."""
    batch, _ = step_of(monkeypatch, [[4] * 8])
    metrics: dict[str, Any] = {}
    assert len(Tree()._balance_batch(batch, metrics)) == 8
    assert metrics["prefix_tree/tokens_max"] == 20


def test_every_pass_is_asked_to_share_unless_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = step_of(monkeypatch, [[4, 4]])
    trainer = Tree()
    for shares in (True, False):
        trainer.shares_prefixes = shares
        for method in (trainer._compute_old_log_prob, trainer._compute_ref_log_prob, trainer._update_actor):
            method(batch, {})
    assert trainer.asked == [True] * 3 + [False] * 3
    assert trainer._balance_batch(batch, {}) is batch


def test_it_is_registered_before_verl_s_own_engine_and_trainer() -> None:
    require_proved_verl()
    engines = EngineRegistry._engines["language_model"]
    assert engines["fsdp2"]["cuda", "nvidia"] is PrefixTreeEngine
    assert ("cuda", "nvidia") not in engines["fsdp"]
    assert get_trainer_cls("fission") is RunTrainer
    assert RunTrainer.__mro__[1] is PrefixTreeRows
