"""One rank of verl's FSDP2 engine on a CPU, started by `test_verl_tree.py`: what it computes with and without the tree.

python tree_on_ranks.py FOLDER RANK RANKS
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

from fission_grpo.engines.verl.tree_engine import SHARE

VOCABULARY = 64
SHAPE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
MODELS: Mapping[str, Any] = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
    "sliding": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, tie_word_embeddings=True, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "experts": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, output_router_logits=True
        )
    ),
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "packed": {},
    "padded": {"use_remove_padding": False},
    "legacy": {"left_right": True},
    "cut": {"max_token_len_per_gpu": 60},
    "rows": {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 3},
    "again": {"max_token_len_per_gpu": 60, "checkpointing": True},
    "entropy": {"entropy_coeff": 0.1, "temperature": 1.0},
    "sequences": {"loss_agg_mode": "seq-mean-token-mean"},
    "bfloat16": {"computed": "bf16"},
    "sliding": {"model": "sliding"},
    "experts": {"model": "experts"},
    "off": {"share": False},
    "fused": {"fused": True},  # the last: verl patches the class of the model for good
}


def rows_of(rank: int) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, response, mask) of twelve rows: a group, recoveries from its first row, two without a trained token."""
    random = torch.Generator().manual_seed(rank)

    def draw(count: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (count,), generator=random).tolist()

    prompt = draw(14 + 3 * rank)
    found = []
    for length in (9, 3, 7, 5):
        response = [*(found[0][1][:2] if found else []), *draw(length)]  # two tokens that all of them begin with
        mask = [1] * len(response)
        mask[3:5] = [0] * len(mask[3:5])  # a tool's reply
        found.append((prompt, response, mask))
    context = [*prompt, *found[0][1], *draw(4)]
    for length in (6, 1, 4, 8, 2, 3):
        response = draw(length)
        found.append((context, response, [1] * len(response)))
    found.append((draw(5), draw(4), [0] * 4))
    found.append(([1] * 8, [1], [0]))  # as verl pads
    order = torch.randperm(len(found), generator=random).tolist()
    return [found[place] for place in order]


def batch_of(rank: int, *, left_right: bool, **told: Any) -> TensorDict:
    """The rows of a rank as verl's trainer hands them to its engine: ragged, or as its older one padded them."""
    rows = rows_of(rank)
    random = torch.Generator().manual_seed(100 + rank)
    numbers = [torch.randn(2, len(response), generator=random) for _, response, _ in rows]
    if left_right:
        longest = max(len(prompt) for prompt, _, _ in rows), max(len(response) for _, response, _ in rows)
        wide = [
            {
                "prompts": [0] * (longest[0] - len(prompt)) + prompt,
                "responses": response + [0] * (longest[1] - len(response)),
                "response_mask": mask + [0] * (longest[1] - len(response)),
                "attention_mask": [0] * (longest[0] - len(prompt))
                + [1] * (len(prompt) + len(response))
                + [0] * (longest[1] - len(response)),
            }
            for prompt, response, mask in rows
        ]
        fields = {name: torch.tensor([row[name] for row in wide]) for name in wide[0]}
        fields["input_ids"] = torch.cat([fields["prompts"], fields["responses"]], dim=1)
        fields["position_ids"] = (fields["attention_mask"].cumsum(1) - 1).clamp(min=0)
        for name, place in (("old_log_probs", 0), ("advantages", 1)):
            fields[name] = torch.nn.utils.rnn.pad_sequence([number[place] for number in numbers], batch_first=True)
        data = left_right_2_no_padding(TensorDict(fields, batch_size=[len(rows)]))
    else:
        ragged = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
        data = TensorDict(
            {
                "prompts": ragged([torch.tensor(prompt) for prompt, _, _ in rows]),
                "responses": ragged([torch.tensor(response) for _, response, _ in rows]),
                "response_mask": ragged([torch.tensor(mask) for _, _, mask in rows]),
                "loss_mask": ragged([torch.tensor(mask) for _, _, mask in rows]),
                "input_ids": ragged([torch.tensor([*prompt, *response]) for prompt, response, _ in rows]),
                "position_ids": ragged([torch.arange(len(prompt) + len(response)) for prompt, response, _ in rows]),
                "old_log_probs": ragged([-number[0].abs() for number in numbers]),
                "advantages": ragged([number[1] for number in numbers]),
            },
            batch_size=[len(rows)],
        )
    tu.assign_non_tensor(data, **told)
    return data


def engine_of(folder: Path, case: Mapping[str, Any]) -> Any:
    """verl's engine with the weights of a folder."""
    computed = case.get("computed", "fp32")
    engine = EngineRegistry.new(
        "language_model",
        "fsdp2",
        model_config=HFModelConfig(
            path=str(folder),
            load_tokenizer=False,
            use_remove_padding=case.get("use_remove_padding", True),
            use_fused_kernels=case.get("fused", False),
            fused_kernel_options={"impl_backend": "torch"},
            enable_gradient_checkpointing=case.get("checkpointing", False),
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            mixed_precision={"param_dtype": computed, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=10),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def measured(engine: Any, case: Mapping[str, Any], rank: int, ranks: int, *, share: bool) -> dict[str, Any]:
    """Log-probabilities and entropies as for old ones, then loss, metrics and gradient of an update."""
    told = {
        "temperature": case.get("temperature", 0.9),
        "use_remove_padding": case.get("use_remove_padding", True),
        "use_fused_kernels": case.get("fused", False),
        "use_dynamic_bsz": case.get("use_dynamic_bsz", True),
        "max_token_len_per_gpu": case.get("max_token_len_per_gpu", 4096),
        "micro_batch_size_per_gpu": case.get("micro_batch_size_per_gpu"),
        "calculate_entropy": True,
        "global_batch_size": 10 * ranks,
        SHARE: share,
    }
    passes: list[int] = []
    counted = engine.module.register_forward_pre_hook(
        lambda _module, _given, named: passes.append(named["input_ids"].numel()), with_kwargs=True
    )
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=4,
        use_dynamic_bsz=True,
        loss_agg_mode=case.get("loss_agg_mode", "token-mean"),
        entropy_coeff=case.get("entropy_coeff", 0.0),
    )
    left_right = case.get("left_right", False)
    with engine.eval_mode():
        scored = engine.infer_batch(batch_of(rank, left_right=left_right, **told), loss_function=None)
    with engine.train_mode(zero_grad_on_exit=False):
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(
            batch_of(rank, left_right=left_right, **told), partial(ppo_loss, config=config)
        )
        gradient = [weight.grad.full_tensor().flatten() for weight in engine.module.parameters()]
    counted.remove()
    metrics = {
        name: values.aggregate() if hasattr(values, "aggregate") else values
        for name, values in output["metrics"].items()
    }
    return {
        "log_probs": scored["model_output"]["log_probs"].unbind(),
        "entropy": scored["model_output"]["entropy"].unbind(),
        "loss": sum(output["loss"]),
        "metrics": metrics,
        "gradient": torch.cat(gradient),
        "passes": passes,
        "attention": engine.module.config._attn_implementation,
    }


def main(folder: Path, rank: int, ranks: int) -> None:
    """Every case, by verl and by the tree."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / f'meet{ranks}'}", rank=rank, world_size=ranks
    )
    for name, make in MODELS.items() if rank == 0 else ():
        torch.manual_seed(0)
        make().float().save_pretrained(folder / f"{name}{ranks}")
    torch.distributed.barrier()
    lines: list[str] = []
    log = logging.Handler()
    log.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("fission_grpo").addHandler(log)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        engine = engine_of(folder / f"{case.get('model', 'qwen3')}{ranks}", case)
        begun = len(lines)
        pair = [measured(engine, case, rank, ranks, share=share) for share in (False, case.get("share", True))]
        found[name] = (*pair, lines[begun:])
    torch.save(found, folder / f"{ranks}.{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
