"""One training pass over the same trajectories, as different trainers make it.

tree             ours
rows             ours, every trajectory a row of its own
floor            a causal pass over the unique tokens in one row, with as many positions at the LM head: what the tokens
                 cost if nobody asked how they hang together
trl              TRL 1.16, `GRPOTrainer._compute_loss`, a row at a time: nothing padded, the least memory it can do with
trl-batch        the same, a group at a time, which is its default
prefix-grouper   0.0.1.post1: one prompt and its completions in a row; a fission family takes two of them, explorations
                 behind the prompt and recoveries behind the corrective context, because it shares one prefix at a time
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fission_grpo.algorithm.losses import GRPO, Aggregation, policy_loss, token_weights
from fission_grpo.tree.logprobs import score, separate, share_prefixes, token_scores
from fission_grpo.tree.prefix_tree import build_forest
from fission_grpo.types import Distribution, TokenRow

Pass = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What every side gets."""

    model: Any
    rows: Sequence[TokenRow]
    token_budget: int
    attention: str
    """transformers' attention function for the sides that use it."""

    @property
    def advantages(self) -> torch.Tensor:
        return torch.linspace(-1.5, 1.0, len(self.rows), device=self.model.device)

    @property
    def weights(self) -> torch.Tensor:
        mask = torch.ones(len(self.rows), self.completion, dtype=torch.bool, device=self.model.device)
        return token_weights(mask, Aggregation.TRAJECTORY_MEAN, max_tokens=self.completion)

    @property
    def completion(self) -> int:
        return sum(self.rows[0].trained)

    def groups(self) -> list[list[int]]:
        """Indices of the rows that continue the same context."""
        found: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(self.rows):
            found.setdefault(row.ids[: -self.completion], []).append(index)
        return list(found.values())

    def ids(self, indices: Sequence[int]) -> torch.Tensor:
        return torch.tensor([self.rows[index].ids for index in indices], device=self.model.device)


def tree(work: Work) -> Pass:
    return _ours(work, share_prefixes(work.rows))


def rows(work: Work) -> Pass:
    return _ours(work, separate(work.rows))


def _ours(work: Work, groups: Any) -> Pass:
    advantages, weights = work.advantages, work.weights

    def run() -> None:
        parts = score(
            work.model,
            work.rows,
            groups,
            width=work.completion,
            distribution=Distribution(),
            token_budget=work.token_budget,
        )
        for part in parts:
            members = list(part.rows)
            _loss(part.logprobs_BT, advantages[members], weights[members]).backward()

    return run


def _loss(logprobs_BT: torch.Tensor, advantages_B: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    return policy_loss(
        logprobs_BT,
        old_logprobs_BT=logprobs_BT.detach(),
        advantages_BT=advantages_B[:, None],
        weights_BT=weights_BT,
        objective=GRPO,
    )


def floor(work: Work) -> Pass:
    unique = build_forest([row.ids for row in work.rows]).ids_N
    ids = torch.from_numpy(unique).to(work.model.device)[None]
    trained = len(work.rows) * work.completion

    def run() -> None:
        work.model.set_attn_implementation(work.attention)
        hidden = work.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, -trained - 1 : -1]
        token_scores(work.model.get_output_embeddings(), hidden, ids[0, -trained:], Distribution())[0].mean().backward()

    return run


def trl_rows(work: Work) -> Pass:
    return _trl(work, [[index] for index in range(len(work.rows))])


def trl_groups(work: Work) -> Pass:
    return _trl(work, work.groups())


def _trl(work: Work, batches: Sequence[Sequence[int]]) -> Pass:
    trainer = _trl_trainer(work.model, largest=max(map(len, batches)))
    advantages = work.advantages
    inputs = []
    for indices in batches:
        ids = work.ids(indices)
        prompt, completion = ids[:, : -work.completion], ids[:, -work.completion :]
        inputs.append(
            {
                "prompt_ids": prompt,
                "prompt_mask": torch.ones_like(prompt),
                "completion_ids": completion,
                "completion_mask": torch.ones_like(completion),
                "advantages": advantages[list(indices)],
                "num_items_in_batch": torch.tensor(1.0),
            }
        )

    def run() -> None:
        work.model.set_attn_implementation(work.attention)
        for batch in inputs:
            # In evaluation mode the trainer leaves the division by the number of micro-batches to us.
            (trainer._compute_loss(work.model, batch) / len(inputs)).backward()

    return run


def _trl_trainer(model: Any, *, largest: int) -> Any:
    import trl.trainer.utils as trl_utils
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from fission_grpo.models.nano import build_tokenizer

    cuda = model.device.type == "cuda"
    if not cuda:
        # Off CUDA it scores every position at the LM head, the prompt's too; with this, the completion's alone.
        trl_utils._use_triton = lambda device: True
    generations = max(largest, 2)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=not cuda,
            bf16=False,
            beta=0.0,
            loss_type="grpo",
            per_device_train_batch_size=generations,
            num_generations=generations,
            gradient_checkpointing=False,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * generations),
        processing_class=build_tokenizer(["a"]),
    )
    model.eval()
    return trainer


def prefix_grouper(work: Work) -> Pass:
    """As its documentation says: the attention function is wrapped, the positions of every completion begin behind the
    prompt, and `split_output` hands the prompt's last token to each of them. Its mask is one for FlashAttention; SDPA
    gets the same thing as a causal flag or a mask of its own."""
    from prefix_grouper import PrefixGrouper

    AttentionInterface.register("prefix_grouper_sdpa", _prefix_grouper_attention)
    model, length, device = work.model, work.completion, work.model.device
    advantages, weights = work.advantages, work.weights

    def run_group(indices: list[int]) -> None:
        ids = work.ids(indices)
        prompt, completion = ids[:1, :-length], ids[:, -length:]
        grouper = PrefixGrouper.from_ungrouped_masks(
            torch.ones_like(prompt), torch.ones_like(completion), group_sizes=len(indices), device=device
        )
        begin = prompt.shape[1]
        behind = torch.arange(begin, begin + length, device=device).repeat(len(indices))
        hidden = model.get_decoder()(
            input_ids=grouper.concat_input(prompt, torch.ones_like(prompt), completion, torch.ones_like(completion)),
            position_ids=torch.cat([torch.arange(begin, device=device), behind])[None],
            use_cache=False,
            prefix_grouper=grouper,
        ).last_hidden_state
        _, _, suffix, _ = grouper.split_output(hidden, include_prefix_last=1)
        read = suffix[:, :-1].flatten(0, 1)
        logprobs, _ = token_scores(model.get_output_embeddings(), read, completion.flatten(), Distribution())
        _loss(logprobs.view(len(indices), length), advantages[indices], weights[indices]).backward()

    def run() -> None:
        model.set_attn_implementation("prefix_grouper_sdpa")
        for indices in work.groups():
            run_group(indices)

    return run


def _prefix_grouper_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: Any, **settings: Any
) -> tuple[torch.Tensor, None]:
    grouper = settings.pop("prefix_grouper")

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
        queries, keys = query.shape[2], key.shape[2]
        mask = None  # nothing is padded here: the prompt is causal, and a completion causal behind the whole prompt
        if queries != keys:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[None, None]
        return sdpa_attention_forward(
            module, query, key, value, mask, scaling=settings["scaling"], is_causal=mask is None
        )[0]

    return grouper.forward(attend, query, key, value), None


SIDES: Mapping[str, Callable[[Work], Pass]] = {
    "tree": tree,
    "floor": floor,
    "rows": rows,
    "trl": trl_rows,
    "trl-batch": trl_groups,
    "prefix-grouper": prefix_grouper,
}
_NEEDS: Mapping[str, str] = {"trl": "trl", "trl-batch": "trl", "prefix-grouper": "prefix_grouper"}


def installed(side: str) -> bool:
    """Whether what a side measures is here."""
    return side not in _NEEDS or find_spec(_NEEDS[side]) is not None
