"""verl's FSDP engine on micro-batches of which every unique token is computed once.

verl reads each row of a micro-batch from its first token on, although a group shares its prompt and a fission family
its failed trajectory. Where the data of a step ask for it (`SHARE`), the rows of a rank are dealt anew: those that
share prefixes meet in a micro-batch, whose budget counts unique tokens. A micro-batch is one forest, sent as one row
through the wrapped model's own forward, so that FSDP sees the call that it expects; between the decoder and the head
its nodes become those that are read. Head, temperature, entropy, fused kernels, loss and gradient accumulation stay
verl's.

Only tokens that are trained are scored; elsewhere log-probabilities and entropies are 0, and no loss of verl's reads
them. Shapes: N unique scored tokens of a forest, B rows, L tokens of the longest row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import postprocess_batch_func

from fission_grpo.engines.forest_passes import (
    Reading,
    ScoredRow,
    blank,
    dealt,
    model_obstacle,
    parts_within,
    passes_over,
    placed,
    take_nodes,
)
from fission_grpo.tree.tree_attention import ForestPass, install_attention

SHARE = "share_prefixes"
"""Key in the data of a step: whether to share. Without it everything is verl's."""
SHARING = "prefix_tree/sharing"
"""Metric: tokens of the rows for each token that was computed."""
BACKEND = "fsdp2"
"""verl's `actor.strategy` whose engine this is; with FSDP1 nothing has been tried."""
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Pass:
    """The forest that is under way."""

    reading: Reading
    tokens: Tensor
    """Those that are scored, [N]."""
    forest: ForestPass
    held: int
    """Tokens of the rows."""


# Asked for before verl's own class, which is registered for all vendors.
@EngineRegistry.register(model_type="language_model", backend=BACKEND, device="cuda", vendor="nvidia")
class PrefixTreeEngine(FSDPEngineWithLMHead):  # type: ignore[misc]  # verl is untyped where this is checked
    """What cannot share prefixes exactly is left to verl, and the log says why, once."""

    _sharing = False
    _pass: _Pass | None = None
    _said: str | None = None

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> Any:
        """verl's, over micro-batches that are dealt by prefixes; as many on every rank."""
        if not tu.get_non_tensor_data(data=data, key=SHARE, default=False):
            return super().forward_backward_batch(data, loss_function, forward_only)
        if reason := self._obstacle(data):
            if reason != self._said and self.rank == 0:
                _LOG.warning("prefixes are not shared, verl computes every row on its own: %s", reason)
            self._said = reason
            return super().forward_backward_batch(data, loss_function, forward_only)
        group, token_budget = self.get_data_parallel_group(), _budget(data)
        trained = data["loss_mask"].sum().to(get_device_id())
        torch.distributed.all_reduce(trained, group=group)
        tu.assign_non_tensor(
            data,
            sp_size=1,
            dp_size=self.get_data_parallel_size(),
            batch_num_tokens=trained.item(),
            use_dynamic_bsz=True,
        )
        sequences = [row.ids for row in scored_rows(data)]
        most = torch.tensor(parts_within(sequences, token_budget), device=get_device_id())
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX, group=group)
        parts = dealt(sequences, int(most))
        told = []
        with self._tree_attention(), torch.no_grad() if forward_only else nullcontext():
            for number, part in enumerate(parts, start=1):
                last = forward_only or number == len(parts)
                with self._gradient_sync_context(is_last_micro_batch=last):
                    micro_batch = tu.index_select_tensor_dict(data, part)
                    loss, output = self.forward_step(micro_batch, loss_function, forward_only)
                    if not forward_only:
                        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                        output.pop("model_output")
                told.append(output)
        return postprocess_batch_func(output_lst=told, indices=parts, data=data)

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Callable[..., Any], forward_only: bool
    ) -> tuple[Tensor, dict[str, Any]]:
        """verl's, of one forest where prefixes are shared."""
        if not self._sharing:
            whole: tuple[Tensor, dict[str, Any]] = super().forward_step(micro_batch, loss_function, forward_only)
            return whole
        device = torch.device(get_device_id())
        reading = next(iter(passes_over([row for row in scored_rows(micro_batch) if row.ids])), blank())
        at_N, token_N = reading.taken(device)
        decoder = self._causal.base_model
        current = _Pass(
            reading=reading,
            tokens=token_N,
            forest=ForestPass(reading.forest, dtype=self._autocast_dtype, device=device),
            held=len(micro_batch["input_ids"].values()),
        )
        self._pass = current
        # As an argument of the decoder itself: verl's patched forwards pass on only what they know.
        given = decoder.register_forward_pre_hook(
            lambda _module, args, named: (args, {**named, "forest": current.forest}), with_kwargs=True
        )
        taken = decoder.register_forward_hook(partial(take_nodes, at_N))
        try:
            loss, output = super().forward_step(micro_batch, loss_function, forward_only)
        finally:
            given.remove()
            taken.remove()
            self._pass = None
        if output["metrics"]:
            shared = current.held / len(reading.forest)
            output["metrics"][SHARING] = Metric(value=shared, aggregation=AggregationType.MEAN)
        return loss, output

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the model is called with, and what verl needs to read its output."""
        if self._pass is None:
            inputs: tuple[dict[str, Any], dict[str, Any]] = super().prepare_model_inputs(micro_batch)
            return inputs
        told = {"forest", "use_cache"}  # by the hook, and by verl
        arguments = {name: value for name, value in self._pass.forest.arguments().items() if name not in told}
        temperature = float(tu.get_non_tensor_data(data=micro_batch, key="temperature", default=1.0))
        if _flag(micro_batch, "use_fused_kernels"):
            arguments |= {"temperature": temperature, "return_dict": True, "shift_labels": self._pass.tokens[None]}
        return arguments, {
            "input_ids_rmpad_rolled": self._pass.tokens,
            "temperature_rmpad": torch.full_like(self._pass.tokens, temperature, dtype=torch.float32),
            "temperature_is_one": temperature == 1.0,
            "pad_size": 0,
        }

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """verl's numbers for the N tokens that were read, where the rows have them: ragged, as verl's own."""
        current = self._pass
        if current is None:
            plain: dict[str, Tensor] = super().prepare_model_outputs(
                output, output_args, micro_batch, logits_processor_func
            )
            return plain
        current.forest.check(self._causal.base_model)
        ends = torch.tensor([0, len(current.tokens)], device=current.tokens.device)
        one_row = TensorDict(
            {"input_ids": torch.nested.nested_tensor_from_jagged(current.tokens, ends)}, batch_size=[1]
        )
        asked = ("use_fused_kernels", "calculate_entropy", "calculate_sum_pi_squared")
        tu.assign_non_tensor(one_row, use_remove_padding=True, **{name: _flag(micro_batch, name) for name in asked})
        scores = super().prepare_model_outputs(output, output_args, one_row, logits_processor_func)
        ids = micro_batch["input_ids"]
        lengths = ids.offsets().diff()
        shape = len(lengths), int(lengths.max())
        kept = torch.arange(shape[1], device=lengths.device) < lengths[:, None]
        return {
            name: torch.nested.nested_tensor_from_jagged(
                placed([current.reading], [score.values()], shape)[kept], ids.offsets()
            )
            for name, score in scores.items()
        }

    @property
    def _causal(self) -> Any:
        """The transformers model inside of what FSDP and peft have put around it."""
        model = getattr(self.module, "_fsdp_wrapped_module", self.module)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    @contextmanager
    def _tree_attention(self) -> Iterator[None]:
        """Our attention function until the last backward pass, which may compute layers again."""
        config = self._causal.base_model.config
        own = config._attn_implementation
        install_attention(self._causal.base_model)
        self._sharing = True
        try:
            yield
        finally:
            self._sharing = False
            config._attn_implementation = own

    def _obstacle(self, data: TensorDict) -> str | None:
        """Why prefixes cannot be shared; None where they can. The same on every rank."""
        if self.use_ulysses_sp:
            return f"ulysses_sequence_parallel_size is {self.ulysses_sequence_parallel_size}"
        if self.pad_to_length:
            return "pad_to_length is on"
        if self.model_config.enable_activation_offload:
            return "enable_activation_offload is on"
        if absent := sorted({"prompts", "responses", "response_mask"} - set(data.keys())):
            return f"rows come without {', '.join(absent)}"
        if isinstance(data["temperature"], Tensor):
            return "rows have temperatures of their own"
        if _flag(data, "distillation_use_topk") or _flag(data, "distillation_only"):
            return "a teacher is distilled"
        return model_obstacle(self._causal)


def _flag(data: TensorDict, name: str) -> bool:
    return bool(tu.get_non_tensor_data(data=data, key=name, default=False))


def _budget(data: TensorDict) -> int:
    """Most unique tokens of a micro-batch: as many as verl allows a micro-batch of its own."""
    if _flag(data, "use_dynamic_bsz"):
        return int(data["max_token_len_per_gpu"])
    return int(data["micro_batch_size_per_gpu"]) * int(data["input_ids"].offsets().diff().max())


def scored_rows(data: TensorDict) -> list[ScoredRow]:
    """Every row with what is read of it: up to its last trained token, each scored where its parent stands.

    Args:
        data: `input_ids` ragged, `prompts` ragged or left-padded, `response_mask` ragged or right-padded. A row without
            a trained token holds nothing.
    """
    prompts = data["prompts"]
    lengths = prompts.offsets().diff() if prompts.is_nested else data["attention_mask"][:, : prompts.shape[1]].sum(1)
    found = []
    for index, (ids, prompt, mask) in enumerate(
        zip(data["input_ids"].unbind(), lengths.tolist(), data["response_mask"].unbind(), strict=True)
    ):
        scored = prompt + np.flatnonzero(mask.cpu().numpy())
        kept = ids[: scored[-1] + 1].tolist() if len(scored) else []
        found.append(ScoredRow(index=index, ids=kept, scored=scored, columns=scored - 1))
    return found
