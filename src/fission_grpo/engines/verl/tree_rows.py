"""The driver's half of the tree inside verl: which rank gets which rows, and that its engine is asked to share.

verl gives every rank as many rows of about equal length, which tears groups apart; for prefix-grouper its older trainer
keeps the rows of a `uid` together, and demands groups of one size, whose number the ranks divide. Here rows go by what
they share, so a fission group stays with the family it comes from, and groups of any size may be cut where whole ones
would leave other ranks waiting. verl wants the same number of rows on every rank: its own padding rows fill up, which
weigh nothing and are not computed.
"""

from __future__ import annotations

from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size

from fission_grpo.engines.forest_passes import dealt, unique_tokens
from fission_grpo.engines.verl.tree_engine import SHARE, scored_rows


class PrefixTreeRows:
    """Put before a trainer of verl's, this deals rows by their prefixes."""

    shares_prefixes: bool = True
    """False leaves everything to verl."""

    def _balance_batch(
        self, batch: KVBatchMeta, metrics: dict[str, Any], logging_prefix: str = "global_seqlen", **given: Any
    ) -> KVBatchMeta:
        """The rows of a step, padded and in the order in which verl cuts them into ranks."""
        trainer: Any = self
        plain: Any = super()
        if not self.shares_prefixes:
            balanced: KVBatchMeta = plain._balance_batch(batch, metrics, logging_prefix, **given)
            return balanced
        workers = trainer.actor_rollout_wg
        if "actor" not in workers._dispatch_info:
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        ranks = max(workers._dispatch_info["actor"]) + 1
        fields = ["prompts", "input_ids", "response_mask"]
        rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        sequences = [row.ids for row in scored_rows(rows)]
        parts = dealt(sequences, ranks)
        multiple = trainer._get_required_batch_multiple(ranks) // ranks
        most = -(-max(map(len, parts)) // multiple) * multiple
        padded = upsample_batch_to_divisible_size(batch, ranks * most, trainer.tokenizer.eos_token_id)
        padding = iter(range(len(batch), len(padded)))
        padded.reorder(
            [index for part in parts for index in [*part, *(next(padding) for _ in range(most - len(part)))]]
        )
        costs = [unique_tokens([sequences[index] for index in part]) for part in parts]
        metrics |= {"prefix_tree/tokens_max": max(costs), "prefix_tree/tokens_mean": sum(costs) / ranks}
        return padded

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return self._asked("_compute_old_log_prob", batch, metrics)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return self._asked("_compute_ref_log_prob", batch, metrics)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return self._asked("_update_actor", batch, metrics)

    def _asked(self, method: str, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's own method, whose data ask the engine to share prefixes."""
        batch.extra_info[SHARE] = self.shares_prefixes
        told: KVBatchMeta = getattr(super(), method)(batch, metrics)
        return told
