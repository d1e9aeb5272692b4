"""The prefix tree inside TRL changes nothing but the number of tokens that are computed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from peft import LoraConfig, PrefixTuningConfig
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from toy_trl import (
    SHAPE,
    Counted,
    TreeTrainer,
    family,
    gradient_of,
    loss_and_gradient,
    padded,
    relative,
    rows_of,
    scored,
    tokenizer,
    toy_lora,
    toy_model,
    toy_trainer,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from trl import GRPOTrainer

from fission_grpo.engines.prefix_tree import PrefixTreeMixin, readings, regrouped
from fission_grpo.engines.prefix_tree_contract import require_members, require_parameters
from fission_grpo.errors import ConfigError

LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo")
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5


def assert_equals_trl(trainer: Any, batch: dict[str, Any], model: Any = None) -> None:
    """One micro-batch, with TRL's own method and with ours."""
    trainer.prefix_tree = False
    expected, gradient = loss_and_gradient(trainer, model or trainer.model, batch)
    trainer.prefix_tree = True
    loss, found = loss_and_gradient(trainer, model or trainer.model, batch)
    assert loss == pytest.approx(expected, rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE)
    assert gradient.norm() > 0
    assert relative(found, gradient) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_its_gradient_are_those_of_trl(loss: str) -> None:
    assert_equals_trl(toy_trainer(toy_model(), loss_type=loss), family())


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 0.1},
        {"importance_sampling_level": "sequence", "loss_type": "grpo"},
        {"top_entropy_quantile": 0.5},
        {"entropy_coef": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_is_added_to_a_loss_is_that_of_trl(settings: dict[str, Any], tmp_path: Path) -> None:
    model = toy_model()
    if "beta" in settings:  # TRL loads the reference from where the policy came from
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path)
    assert_equals_trl(toy_trainer(model, **settings), family())


def test_heads_that_scale_or_cap_their_logits_stay_as_trl_reads_them() -> None:
    model = toy_model()
    model.config.final_logit_softcapping = 2.0
    assert_equals_trl(toy_trainer(model), family())


def test_a_family_counted_by_hand() -> None:
    """12 tokens, and 5 to score: 6 counts once for two answers, and the third row only reads 6 8 9.

    1 2 3 4 5 ─ 6 ┬ 7
                  └ 8 9 ─ 10 11 ─ 12
    """
    prompt = [1, 2, 3, 4, 5]
    rows = [(prompt, [6, 7]), (prompt, [6, 8, 9]), ([*prompt, 6, 8, 9, 10, 11], [12])]
    batch = padded(rows, advantages=[1.0, -1.0, 0.5])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    (reading,) = readings(ids, mask, width=3, token_budget=1000)
    assert len(reading.forest) == 12
    assert reading.token_N.tolist() == [6, 7, 8, 9, 12]
    assert reading.forest.ids_N[reading.at_N].tolist() == [5, 6, 6, 8, 11]
    assert reading.token_N[reading.unique_S].tolist() == [6, 7, 6, 8, 9, 12]
    assert reading.row_S.tolist() == [0, 0, 1, 1, 1, 2]
    assert reading.column_S.tolist() == [0, 1, 0, 1, 2, 0]

    model = toy_model()
    trainer = toy_trainer(model, rows=3)
    trainer.prefix_tree = False
    with Counted(model) as counted:
        loss_and_gradient(trainer, model, batch)
    assert (counted.passes, counted.positions) == (1, 3 * (10 + 3))
    trainer.prefix_tree = True
    with Counted(model) as counted:
        loss_and_gradient(trainer, model, batch)
    assert (counted.passes, counted.positions) == (1, 12)
    assert trainer._metrics["train"]["prefix_tree/sharing"] == [26 / 12]  # 7, 8 and 11 tokens


def test_a_row_without_a_completion_costs_nothing_and_one_without_a_prompt_is_refused() -> None:
    model = toy_model()
    trainer = toy_trainer(model, mask_truncated_completions=True)
    batch = family()
    batch["completion_mask"][1:5] = 0
    assert_equals_trl(trainer, batch)
    batch["completion_mask"][:] = 0
    with Counted(model) as counted:
        loss, gradient = loss_and_gradient(trainer, model, batch)
    assert (loss, float(gradient.norm()), counted.positions) == (0.0, 0.0, 1)
    batch = family()
    batch["prompt_mask"][2] = 0
    with pytest.raises(ValueError, match="row 2 has no prompt"):
        trainer.compute_loss(model, batch)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_computes_the_layers_of_the_tree_again_and_keeps_their_inputs_alone(
    reentrant: bool,
) -> None:
    model, batch = toy_model(), family()
    trainer = toy_trainer(model)
    calls: list[int] = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda _, given, output: calls.append(output[0].shape[1]))
    expected, gradient = loss_and_gradient(trainer, model, batch)
    plain, kept = list(calls), bytes_kept(trainer, model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    calls.clear()
    loss, found = loss_and_gradient(trainer, model, batch)
    assert calls == 2 * plain
    assert loss == expected
    assert relative(found, gradient) < GRADIENT_TOLERANCE
    assert bytes_kept(trainer, model, batch) < kept / 3


def bytes_kept(trainer: Any, model: Any, batch: dict[str, Any]) -> int:
    """What the graph of a micro-batch keeps for its backward pass, each storage once, the weights excepted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = trainer.compute_loss(model, batch)
    assert loss.requires_grad
    return sum(seen.values())


def test_a_tree_beyond_the_budget_is_read_in_several_passes_that_fit() -> None:
    """Rows of up to 8 + 10 tokens; 12 answers and their prompt are about 8 + 12 * 9 tokens: no pass exceeds 40."""
    model = toy_model()
    batch = rows_of(family(group=12, prompt=8), slice(0, 12))
    trainer = toy_trainer(model, rows=12, prefix_tree_tokens=40)
    with Counted(model) as counted:
        assert_equals_trl(trainer, batch)
    assert counted.passes > 3
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    assert max(len(reading.forest) for reading in readings(ids, mask, width=10, token_budget=40)) <= 40


def test_old_log_probabilities_of_a_whole_generation_batch_are_those_of_trl() -> None:
    """They come in chunks of a micro-batch; a pass of ours holds no more tokens than such a chunk, and all rows fit."""
    model, batch = toy_model(), family()
    trainer = toy_trainer(model)
    trainer.prefix_tree = False
    expected = scored(trainer, model, batch, batch_size=4)
    trainer.prefix_tree = True
    with Counted(model) as counted:
        found = scored(trainer, model, batch, batch_size=4)
    assert torch.allclose(found, expected, atol=1e-5)
    assert counted.passes == 1


def test_a_reference_model_is_read_through_the_tree(tmp_path: Path) -> None:
    """Its head is TRL's too, and gives no entropies."""
    toy_model().save_pretrained(tmp_path)
    trainer = toy_trainer(type(toy_model()).from_pretrained(tmp_path), beta=0.1)
    with torch.no_grad():
        trainer.ref_model.model.layers[0].mlp.down_proj.weight.mul_(2)
    batch = family()
    with Counted(trainer.ref_model) as counted:
        found = scored(trainer, trainer.ref_model, batch, batch_size=4)
    assert counted.passes == 1
    trainer.prefix_tree = False
    assert torch.allclose(found, scored(trainer, trainer.ref_model, batch, batch_size=4), atol=1e-5)
    assert not torch.allclose(found, scored(trainer, trainer.model, batch), atol=1e-2)


def test_lora_and_its_reference() -> None:
    trainer = toy_trainer(toy_model(), peft_config=toy_lora(), beta=0.1)
    batch = family()
    assert_equals_trl(trainer, batch)
    adapted = scored(trainer, trainer.model, batch)
    with trainer.model.disable_adapter():
        found = scored(trainer, trainer.model, batch)
        trainer.prefix_tree = False
        expected = scored(trainer, trainer.model, batch)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, adapted, atol=1e-2)


def test_under_autocast_attention_computes_in_the_narrow_type() -> None:
    """bfloat16 has 8 bits: no more than a percent or two can be asked for."""
    batch = family()
    trainer = toy_trainer(toy_model(), bf16=True)
    seen = []
    trainer.model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].dtype)
    )
    loss, gradient = loss_and_gradient(trainer, trainer.model, batch)
    assert seen == [torch.bfloat16]
    trainer.prefix_tree = False
    expected, plain = loss_and_gradient(trainer, trainer.model, batch)
    assert loss == pytest.approx(expected, abs=2e-2)
    assert relative(gradient, plain) < 5e-2


# Whole runs


def trained(prefix_tree: bool, *, seen: list[dict[str, Any]] | None = None, **settings: Any) -> tuple[Any, int]:
    """Two optimizer steps of plain gradient descent, and how many positions the decoder read with a gradient."""
    model = toy_model()
    trainer = toy_trainer(
        model,
        **{
            "rows": 4,
            "num_generations": 4,
            "gradient_accumulation_steps": 4,
            "max_steps": 2,
            "optim": "sgd",
            "learning_rate": 1.0,
            "save_strategy": "no",
            "prompts": ["a long question of many letters", "a long question of few letters", "x", "y"],
            "prefix_tree": prefix_tree,
            "gradient_checkpointing": True,
            **settings,
        },
    )
    positions = 0

    def count(_module: Any, _given: Any, named: dict[str, Any]) -> None:
        nonlocal positions
        if torch.is_grad_enabled():
            positions += named["input_ids"].numel()

    model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    if seen is not None:
        compute = trainer._compute_loss
        trainer._compute_loss = lambda model, inputs: (seen.append(inputs), compute(model, inputs))[1]
    trainer.train()
    return trainer, positions


@pytest.mark.parametrize("loss", ["dapo", "grpo"])
def test_a_whole_run_over_accumulated_micro_batches_ends_with_the_weights_of_trl(loss: str) -> None:
    plain, many = trained(False, loss_type=loss)
    dealt: list[dict[str, Any]] = []
    tree, few = trained(True, seen=dealt, loss_type=loss)
    start = toy_model()
    weights = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (start, plain.model, tree.model)]
    assert relative(weights[1] - weights[0], weights[2] - weights[0]) < 1e-4
    assert len(dealt) == 8
    for batch in dealt:
        assert len({tuple(ids.tolist()) for ids in batch["prompt_ids"]}) == 1  # each micro-batch is a group
    assert few == sum(unique_tokens(batch) for batch in dealt)
    assert few < many / 2
    assert tree.model.config._attn_implementation == plain.model.config._attn_implementation == "sdpa"
    assert tree.state.log_history[0]["prefix_tree/sharing"] > 1.5


def unique_tokens(batch: dict[str, Any]) -> int:
    """Prefixes of a micro-batch's rows, counted without our tree."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1).bool()
    rows = [tuple(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)]
    return len({row[:end] for row in rows for end in range(1, len(row) + 1)})


# Which rows meet in a micro-batch


class GivenRows(TreeTrainer):
    """Trains on a batch that is there already."""

    given: dict[str, Any]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        return dict(self.given)


def dealt(monkeypatch: pytest.MonkeyPatch, *, prefix_tree: bool, **settings: Any) -> list[dict[str, Any]]:
    """The micro-batches of a generation batch of two families, 16 rows, each with its number as advantage."""
    monkeypatch.setattr("toy_trl.TreeTrainer", GivenRows)
    trainer = toy_trainer(toy_model(), prefix_tree=prefix_tree, num_generations=4, rows=4, **settings)
    halves = family(seed=1), family(seed=2)
    trainer.given = {
        name: torch.cat([half[name] for half in halves]) if value.ndim else value for name, value in halves[0].items()
    }
    trainer.given["advantages"] = torch.arange(16.0)
    torch.manual_seed(3)
    batches = []
    for step in range(4):
        trainer._step = step
        batches.append(trainer._prepare_inputs([{}] * 16))
    return batches


def numbers(batches: list[dict[str, Any]]) -> list[set[int]]:
    return [set(batch["advantages"].int().tolist()) for batch in batches]


def test_rows_that_share_prefixes_meet_in_a_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches of 4 rows; families of a group of 4 and 4 recoveries."""
    torn = dealt(monkeypatch, prefix_tree=False, gradient_accumulation_steps=4)
    whole = dealt(monkeypatch, prefix_tree=True, gradient_accumulation_steps=4)
    first, second = {*range(8)}, {*range(8, 16)}
    assert all(group <= first or group <= second for group in numbers(whole))
    assert not all(group <= first or group <= second for group in numbers(torn))
    assert set.union(*numbers(whole)) == first | second
    assert sum(map(unique_tokens, whole)) < 0.75 * sum(map(unique_tokens, torn))
    for batch in whole:  # nothing else of a row has moved
        halves = [family(seed=1), family(seed=2)]
        for row, number in enumerate(batch["advantages"].int().tolist()):
            half = halves[number // 8]
            for name in ("completion_ids", "tool_mask", "old_per_token_logps"):
                assert torch.equal(batch[name][row], half[name][number % 8])


def test_an_optimizer_step_keeps_the_rows_that_trl_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of two micro-batches each from one generation."""
    settings = {"gradient_accumulation_steps": 2, "steps_per_generation": 4}
    plain = numbers(dealt(monkeypatch, prefix_tree=False, **settings))
    tree = numbers(dealt(monkeypatch, prefix_tree=True, **settings))
    assert tree != plain
    assert [tree[0] | tree[1], tree[2] | tree[3]] == [plain[0] | plain[1], plain[2] | plain[3]]


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"loss_type": "bnpo"}, "loss_type='bnpo'"),
        ({"top_entropy_quantile": 0.5}, "top_entropy_quantile"),
        ({"entropy_coef": 0.1}, "the entropy bonus"),
    ],
    ids=["bnpo", "quantile", "bonus"],
)
def test_where_a_loss_is_a_mean_of_its_micro_batch_rows_stay_where_trl_put_them(
    settings: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = numbers(dealt(monkeypatch, prefix_tree=False, gradient_accumulation_steps=4, **settings))
    with caplog.at_level(logging.WARNING, logger="fission_grpo"):
        tree = numbers(dealt(monkeypatch, prefix_tree=True, gradient_accumulation_steps=4, **settings))
    assert tree == plain
    assert [named in line for line in caplog.messages] == [True]


def accumulated(loss: str, batches: list[dict[str, Any]], *, prefix_tree: bool, **settings: Any) -> torch.Tensor:
    """The gradient of an optimizer step."""
    model = toy_model()
    trainer = toy_trainer(model, prefix_tree=prefix_tree, rows=4, loss_type=loss, num_generations=4, **settings)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    for batch in batches:
        trainer.compute_loss(model, batch).backward()
    return gradient_of(model)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "bnpo"])
def test_the_gradient_of_an_optimizer_step_does_not_depend_on_the_deal(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = dealt(monkeypatch, prefix_tree=False, gradient_accumulation_steps=4)
    whole = regrouped(torn)
    assert numbers(whole) != numbers(torn)
    expected = accumulated(loss, torn, prefix_tree=False, gradient_accumulation_steps=4)
    found = accumulated(loss, whole, prefix_tree=True, gradient_accumulation_steps=4)
    assert relative(found, expected) < GRADIENT_TOLERANCE


def test_lists_and_what_belongs_to_all_rows_are_dealt_with_them() -> None:
    first = padded([([9], [1]), ([5], [1])], advantages=[0.0, 1.0])
    second = padded([([5], [2]), ([9], [2])], advantages=[2.0, 3.0])
    batches = [{**first, "names": ["a", "b"], "none": None}, {**second, "names": ["c", "d"], "none": None}]
    one, two = regrouped(batches)
    assert (one["names"], two["names"]) == (["b", "c"], ["a", "d"])
    assert (one["advantages"].tolist(), two["advantages"].tolist()) == ([1.0, 2.0], [0.0, 3.0])
    assert one["none"] is None
    assert one["num_items_in_batch"] == first["num_items_in_batch"]


# Several processes


BUDGET = 40
"""Rank 0 has 12 answers to a short prompt and makes several passes; rank 1 has 12 recoveries, and another number."""


def of_two_ranks() -> dict[str, Any]:
    return family(group=12, prompt=8)


def shard(model: Any) -> Any:
    """As accelerate does: each layer, then what stands around them, then the rest."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard([model.model.norm, model.model.embed_tokens, model.lm_head], mesh=mesh, reshard_after_forward=False)
    return fully_shard(model, mesh=mesh)


WRAPPERS: Mapping[str, Callable[[Any], Any]] = {"ddp": DistributedDataParallel, "fsdp2": shard}
CASES: Mapping[str, tuple[int | None, bool]] = {"whole": (None, False), "cut": (BUDGET, False), "again": (BUDGET, True)}
"""Most tokens of a pass; gradient checkpointing."""


def on_a_rank(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    mine = rows_of(of_two_ranks(), slice(12 * rank, 12 * rank + 12))
    written: dict[tuple[str, str], Any] = {}
    for (wrapper, wrap), (case, (tokens, checkpointing)) in product(WRAPPERS.items(), CASES.items()):
        model = toy_model()
        trainer = toy_trainer(model, rows=12, num_generations=12, prefix_tree_tokens=tokens)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        wrapped = wrap(model)
        with Counted(model) as counted:
            _, gradient = loss_and_gradient(trainer, wrapped, mine)
        written[wrapper, case] = (counted.passes, gradient, scored(trainer, wrapped, mine, batch_size=1 + rank))
    torch.save(written, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two ranks over gloo have written."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(on_a_rank, (port, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradient_of_one_process_over_their_rows(wrapper: str, case: str, ranks: list[Any]) -> None:
    model = toy_model()
    trainer = toy_trainer(model, rows=24, prefix_tree=False)
    _, expected = loss_and_gradient(trainer, model, of_two_ranks())
    old = scored(trainer, model, of_two_ranks())
    for rank, found in enumerate(ranks):
        passes, gradient, logps = found[wrapper, case]
        assert relative(gradient, expected) < GRADIENT_TOLERANCE
        assert torch.allclose(logps, old[12 * rank : 12 * rank + 12], atol=1e-5)
        assert passes == ranks[0][wrapper, case][0]  # one waits for the other at each pass
        assert passes == 1 if case == "whole" else passes > 2


# What cannot share


def moe_model() -> Any:
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "output_router_logits": True}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=len(tokenizer()), **SHAPE, **experts)).float()


def sliding_model() -> Any:
    return toy_model(use_sliding_window=True, sliding_window=4, max_window_layers=1)


@pytest.mark.parametrize(
    "model, settings, named",
    [
        (sliding_model, {}, "sliding_attention"),
        (moe_model, {}, "the auxiliary loss of qwen3_moe"),
        (partial(toy_model, attention_dropout=0.1), {}, "attention_dropout is 0.1"),
        (toy_model, {"peft_config": LoraConfig(lora_dropout=0.1, target_modules=["q_proj"])}, "disable_dropout=True"),
        (toy_model, {"peft_config": PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")}, "of its own"),
    ],
    ids=["sliding", "experts", "attention dropout", "lora dropout", "prompt learning"],
)
def test_what_cannot_share_is_left_to_trl_and_told_once(
    model: Callable[[], Any], settings: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = toy_trainer(model(), **settings)
    batch = family()
    with caplog.at_level(logging.WARNING, logger="fission_grpo"):
        for _ in range(2):
            torch.manual_seed(0)
            loss, gradient = loss_and_gradient(trainer, trainer.model, batch)
    assert [named in line for line in caplog.messages] == [True]
    trainer.prefix_tree = False
    torch.manual_seed(0)
    expected, plain = loss_and_gradient(trainer, trainer.model, batch)
    assert loss == expected
    assert torch.equal(gradient, plain)


def test_experts_without_an_auxiliary_loss_share() -> None:
    model = moe_model()
    model.config.output_router_logits = False
    assert_equals_trl(toy_trainer(model, router_aux_loss_coef=0.0), family())


def test_rows_that_come_with_more_than_tokens_are_left_to_trl(caplog: pytest.LogCaptureFixture) -> None:
    model, batch = toy_model(), family()
    trainer = toy_trainer(model)
    types = torch.zeros(8, 45, dtype=torch.long)
    with Counted(model) as counted, caplog.at_level(logging.WARNING, logger="fission_grpo"):
        trainer.compute_loss(model, {**batch, "token_type_ids": types})
    assert ["token_type_ids" in line for line in caplog.messages] == [True]
    assert counted.positions == 8 * 45


def test_a_model_that_sees_is_left_to_trl() -> None:
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    text = {
        **SHAPE,
        "vocab_size": len(tokenizer()),
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    assert "qwen2_5_vl" in str(toy_trainer(toy_model())._obstacle(model, {}))


def test_the_switch_leaves_everything_to_trl(caplog: pytest.LogCaptureFixture) -> None:
    model, batch = toy_model(), family()
    trainer = toy_trainer(model, prefix_tree=False)
    with Counted(model) as counted, caplog.at_level(logging.WARNING, logger="fission_grpo"):
        loss_and_gradient(trainer, model, batch)
    assert counted.positions == 8 * 45  # prompts of up to 20 + 10 + 5 tokens, answers of up to 10
    assert caplog.messages == []
    assert "prefix_tree/sharing" not in trainer._metrics["train"]


# What of TRL it stands on


def test_the_mixin_must_stand_before_trls_trainer() -> None:
    with pytest.raises(ConfigError, match=r"write `class Late\(PrefixTreeMixin, GRPOTrainer\)`"):

        class Late(GRPOTrainer, PrefixTreeMixin):
            pass


def test_a_budget_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="prefix_tree_tokens is 0"):
        toy_trainer(toy_model(), prefix_tree_tokens=0)


def test_a_trl_that_has_changed_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"_prepare_inputs takes no rows, which we rely on: install trl==1\.16\.0"):
        require_parameters(GRPOTrainer._prepare_inputs, ("generation_batch", "rows"))
    with pytest.raises(ConfigError, match="GRPOTrainer has no generate_all"):
        require_members(GRPOTrainer, ("training_step", "generate_all"))
