"""TRL's own GRPO losses on log-probabilities of which every unique token is computed once.

    class MyTrainer(PrefixTreeMixin, GRPOTrainer): ...

TRL pads the rows of a micro-batch and reads each from its first token on, although a group shares its prompt and a
fission family its failed trajectory. The mixin answers the one method that both the loss and the scoring of old and
reference log-probabilities go through. It packs the rows into a forest (`tree.prefix_tree`) and sends that as one row
through the wrapped model's own forward, so that DDP, FSDP2 and accelerate see the call that they expect, and through
the LM head that TRL has put there (`fused_lm_head=True`), so that temperature, scaling and precision stay TRL's.
Nothing of TRL or transformers is replaced; the model attends with our function from a pass to the end of its step.

Shapes: B rows, L padded length of a row, T padded length of a completion, N unique scored tokens of a forest, S scored
tokens of its rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import gcd
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from trl import GRPOTrainer

from fission_grpo.engines.forest_passes import (
    Reading,
    ScoredRow,
    blank,
    model_obstacle,
    passes_over,
    placed,
    router_obstacle,
    take_nodes,
)
from fission_grpo.engines.prefix_tree_contract import require_members, require_parameters
from fission_grpo.errors import ConfigError
from fission_grpo.tree.tree_attention import ForestPass, install_attention

_LOG = logging.getLogger(__name__)

_ANY_DEAL = frozenset({"grpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"})
"""Losses that are sums over rows, divided by what does not depend on which rows meet in a micro-batch."""

_MEMBERS = (
    "_buffered_inputs",
    "_entropy_bonus_enabled",
    "_metrics",
    "accelerator",
    "aux_loss_enabled",
    "loss_type",
    "top_entropy_quantile",
)

require_parameters(
    GRPOTrainer._get_per_token_logps_and_entropies,
    ("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy", "compute_aux_loss"),
)
require_parameters(GRPOTrainer._prepare_inputs, ("generation_batch",))
require_members(GRPOTrainer, ("training_step",))


def readings(ids_BL: Tensor, mask_BL: Tensor, *, width: int, token_budget: int) -> list[Reading]:
    """The rows of a padded batch as passes over forests; a row without a token to score is left out.

    Args:
        mask_BL: 0 on padding, wherever it lies.
        width: T; the last columns hold the completions, whose tokens are scored.
        token_budget: most tokens of a pass; see `tree.prefix_tree.split` for what may exceed it.
    Raises:
        ValueError: a row has a completion and no prompt.
    """
    ids, mask = ids_BL.cpu().numpy(), mask_BL.cpu().numpy().astype(bool)
    columns = [np.flatnonzero(kept[-width:]) for kept in mask]
    rows = [index for index, scored in enumerate(columns) if len(scored)]
    for index in rows:
        if not mask[index, :-width].any():
            raise ValueError(f"row {index} has no prompt, so nothing says what its first token is drawn from")
    kept = [np.flatnonzero(mask[index]) for index in rows]
    return passes_over(
        [
            ScoredRow(
                index=index,
                ids=ids[index][places].tolist(),
                scored=np.arange(len(places) - len(columns[index]), len(places)),
                columns=columns[index],
            )
            for index, places in zip(rows, kept, strict=True)
        ],
        token_budget=token_budget,
    )


class PrefixTreeMixin:
    """Put before TRL's `GRPOTrainer`, or before a trainer derived from it, this computes every unique token once.

    Log-probabilities, entropies, losses and gradients are TRL's up to rounding; its configuration, callbacks, PEFT and
    distributed launchers stay as they are. What cannot share prefixes exactly is left to TRL, and the log says why,
    once. Rows that share a prefix are dealt to the same micro-batch, among the micro-batches of one optimizer step and
    where TRL's loss of that step does not depend on it.

    Args:
        prefix_tree: False leaves everything to TRL.
        prefix_tree_tokens: most tokens of one pass; without it as many as TRL's own pass over the same rows would hold.
            Smaller passes compute shared prefixes more than once; with gradient checkpointing they need less memory.
    Raises:
        ConfigError: a setting or the release of TRL cannot work.
    """

    def __init__(
        self, *args: Any, prefix_tree: bool = True, prefix_tree_tokens: int | None = None, **kwargs: Any
    ) -> None:
        if prefix_tree_tokens is not None and prefix_tree_tokens < 1:
            raise ConfigError(f"prefix_tree_tokens is {prefix_tree_tokens}; give 1 or more, or None for TRL's size")
        self.prefix_tree = prefix_tree
        self.prefix_tree_tokens = prefix_tree_tokens
        self._lent: list[tuple[Any, str]] = []
        self._said: set[str] = set()
        super().__init__(*args, **kwargs)
        trainer: Any = self
        require_members(trainer, _MEMBERS)
        require_parameters(_causal(trainer.model).forward, ("shift_labels", "fused_lm_head"))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if GRPOTrainer in order and order.index(GRPOTrainer) < order.index(PrefixTreeMixin):
            raise ConfigError(
                f"{cls.__name__} names PrefixTreeMixin behind TRL's trainer, where it is never asked: "
                f"write `class {cls.__name__}(PrefixTreeMixin, GRPOTrainer)`"
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What TRL's own method returns: log-probabilities and entropies [B, T], in nats; 0 on padding."""
        trainer: Any = self
        inner = trainer.accelerator.unwrap_model(model)
        reason = self._obstacle(inner, multimodal)
        if reason is not None:
            if self.prefix_tree:
                self._say(f"prefixes are not shared, TRL computes every row on its own: {reason}")
            plain: Any = super()
            whole: tuple[Tensor, Tensor | None, Tensor | None] = plain._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **multimodal,
            )
            return whole
        passes = readings(
            input_ids,
            attention_mask,
            width=logits_to_keep,
            token_budget=self.prefix_tree_tokens or (batch_size or len(input_ids)) * input_ids.shape[1],
        )
        if torch.is_grad_enabled():
            held, computed = int(attention_mask.sum()), sum(len(reading.forest) for reading in passes)
            trainer._metrics["train"]["prefix_tree/sharing"].append(held / max(computed, 1))
        single = self.prefix_tree_tokens is None and batch_size is None
        passes += [blank()] * (max(1, 0 if single else self._most(len(passes), input_ids.device)) - len(passes))
        outputs = [self._read(model, _causal(inner), reading, input_ids.device) for reading in passes]
        shape = len(input_ids), logits_to_keep
        logps_BT = placed(passes, [output.log_probs[0] for output in outputs], shape)
        entropies_BT = placed(passes, [output.entropy[0] for output in outputs], shape) if compute_entropy else None
        return logps_BT, entropies_BT, None

    def _read(self, model: Any, causal: Any, reading: Reading, device: torch.device) -> Any:
        """TRL's output for the N scored tokens of a forest, [1, N] each.

        Between the decoder and the head, the nodes become those that are read, as often as they are: the head sees
        nothing else.
        """
        trainer: Any = self
        forest = ForestPass(reading.forest, dtype=causal.dtype, device=device)
        at_N, token_N = reading.taken(device)
        hook = causal.base_model.register_forward_hook(partial(take_nodes, at_N))
        try:
            with self._tree_attention(causal.base_model), trainer.accelerator.autocast():
                output = model(**forest.arguments(), shift_labels=token_N[None], fused_lm_head=True)
        finally:
            hook.remove()
        forest.check(causal.base_model)
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; the backward pass is over then, and the model gets its own attention function back."""
        plain: Any = super()
        try:
            return plain.training_step(*args, **kwargs)
        finally:
            while self._lent:
                config, own = self._lent.pop()
                config._attn_implementation = own

    @contextmanager
    def _tree_attention(self, decoder: Any) -> Iterator[None]:
        """Our attention function for a pass; with a gradient until its backward, which may compute layers again."""
        own = decoder.config._attn_implementation
        install_attention(decoder)
        try:
            yield
        finally:
            if torch.is_grad_enabled():
                self._lent.append((decoder.config, own))
            else:
                decoder.config._attn_implementation = own

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's micro-batch; when it has generated and shuffled new ones, rows that share prefixes are put together."""
        trainer: Any = self
        plain: Any = super()
        known = trainer._buffered_inputs
        inputs = plain._prepare_inputs(generation_batch)
        batches = trainer._buffered_inputs
        # No optimizer step begins or ends inside such a window, so each one keeps the rows that TRL gave it.
        window = gcd(trainer.args.gradient_accumulation_steps, trainer.args.steps_per_generation)
        if batches is known or window == 1 or not self._regroups():
            return inputs
        current = next(index for index, batch in enumerate(batches) if batch is inputs)
        trainer._buffered_inputs = [
            batch for begin in range(0, len(batches), window) for batch in regrouped(batches[begin : begin + window])
        ]
        return trainer._buffered_inputs[current]

    def _regroups(self) -> bool:
        trainer: Any = self
        if self._obstacle(trainer.accelerator.unwrap_model(trainer.model), {}) is not None:
            return False
        means = [
            *([] if trainer.loss_type in _ANY_DEAL else [f"loss_type={trainer.loss_type!r}"]),
            *(["top_entropy_quantile"] if trainer.top_entropy_quantile < 1 else []),
            *(["the entropy bonus"] if trainer._entropy_bonus_enabled else []),
        ]
        if means:
            self._say(
                f"rows stay as TRL has shuffled them over the micro-batches, so fewer prefixes are shared: "
                f"{' and '.join(means)} normalises by micro-batch; with one micro-batch a step, all are"
            )
        return not means

    def _obstacle(self, model: Any, multimodal: dict[str, Any]) -> str | None:
        """Why prefixes cannot be shared; None where they can."""
        trainer: Any = self
        causal = _causal(model)
        if not self.prefix_tree:
            return "prefix_tree is False"
        if trainer.aux_loss_enabled:
            return router_obstacle(causal.config.get_text_config())
        if given := [name for name, value in multimodal.items() if value is not None]:
            return f"rows come with {', '.join(given)}"
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            return "the adapter puts tokens of its own before each row"
        if trainer.args.torch_compile:
            return "torch_compile is on"
        if len(set(getattr(causal, "hf_device_map", {}).values())) > 1:
            return "the model is spread over several devices by its device_map"
        reason = model_obstacle(causal)
        return f"{reason}; GRPOConfig(disable_dropout=True) turns it off" if reason == "dropout is on" else reason

    def _say(self, line: str) -> None:
        trainer: Any = self
        if line not in self._said and trainer.accelerator.is_main_process:
            _LOG.warning(line)
        self._said.add(line)

    def _most(self, passes: int, device: torch.device) -> int:
        """The most passes that any rank makes: under FSDP each one waits for the others."""
        trainer: Any = self
        return int(trainer.accelerator.gather(torch.tensor([passes], device=device)).max())


def regrouped(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in micro-batches of the same size, those that share prefixes side by side.

    In lexicographic order whatever two rows share, they share with every row between them.

    Args:
        batches: TRL's: tensors and lists have one entry for each row; what has no dimension belongs to all of them.
    """
    size = len(batches[0]["prompt_ids"])
    whole = {key: _joined([batch[key] for batch in batches]) for key in batches[0]}
    ids = torch.cat([whole["prompt_ids"], whole["completion_ids"]], dim=1).cpu().numpy()
    mask = torch.cat([whole["prompt_mask"], whole["completion_mask"]], dim=1).cpu().numpy().astype(bool)
    order = sorted(range(len(ids)), key=lambda row: ids[row][mask[row]].tolist())
    parts = [order[begin : begin + size] for begin in range(0, len(order), size)]
    return [{key: _taken(value, part) for key, value in whole.items()} for part in parts]


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values)) if first.ndim else first
    return None if first is None else [entry for value in values for entry in value]


def _taken(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value[list(rows)] if value.ndim else value
    return None if value is None else [value[row] for row in rows]


def _causal(model: Any) -> Any:
    """The transformers model inside of a peft model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
