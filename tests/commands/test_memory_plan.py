"""What a run is said to need of memory: by hand, against a process that trains, and for the recipes for GPUs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from process_memory import probe
from transformers import Qwen3Config

from fission_grpo import recipe
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.commands.engine_memory import MicroBatch, device_memory, micro_batch
from fission_grpo.config import RunSettings, Setting
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings, Sharding, VllmMode
from fission_grpo.models.lora import LoraSettings
from fission_grpo.recipes import Recipe, load_recipe
from fission_grpo.recipes.resolve import resolve
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.training.settings import TrainerSettings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPU_RECIPES = (Recipe.PAPER_24GB, Recipe.PAPER_80GB, Recipe.PAPER_8X80GB)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_the_dry_run_of_our_own_loop_is_the_peak_of_a_process_within_a_fifth() -> None:
    found = probe("own", hidden=256, layers=4, trainer__queries=8, trainer__token_budget=1000)
    assert found["peak"] == pytest.approx(found["plan"], rel=0.2), found


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recompute", [False, True])
def test_so_it_is_in_bf16_with_master_weights(recompute: bool) -> None:
    changes = {"trainer__gradient_checkpointing": recompute, "trainer__token_budget": 1000}
    found = probe("own", hidden=256, layers=4, precision="bf16", trainer__queries=8, trainer__max_rows=8, **changes)
    assert found["peak"] == pytest.approx(found["plan"], rel=0.2), found


def test_our_own_loop_by_hand() -> None:
    """Prompt 100, answer 10, feedback 5, recovery 10: rows of 125 tokens at most. Eight explored, four side by side;
    a cache of 125 + 15 positions is 256 of them. The step is 2 x 140 + 2 x 155 tokens; a pass holds 250."""
    own = settings(engine=EngineSettings(name=Engine.OWN), precision="bf16")
    own = own.model_copy(update={"trainer": own.trainer.model_copy(update={"max_rows": 4, "beta": 0.1})})
    told = device_memory(own, CONFIG, prompt=100, reply=5)
    one = told.memory
    assert (told.micro_batch.tokens, told.micro_batch.scored, told.micro_batch.longest) == (250, 160, 125)
    assert (one.weights, one.gradients, one.optimizer, one.reference) == (2 * WHOLE, 4 * WHOLE, 12 * WHOLE, 2 * WHOLE)
    assert one.cache == 4 * 256 * 2 * 3 * 4 * 2
    assert one.at_work == 2 * 4 * 100 * 8
    exact = own.model_copy(update={"precision": "fp32"})
    one = device_memory(exact, CONFIG, prompt=100, reply=5).memory
    assert (one.weights, one.gradients, one.optimizer, one.at_work) == (4 * WHOLE, 4 * WHOLE, 8 * WHOLE, 0)
    adapted = own.model_copy(update={"lora": LoraSettings(rank=2)})
    adapters = 3 * 2 * ((8 + 8) + 2 * (8 + 4) + (8 + 8) + 2 * (8 + 16) + (16 + 8))
    one = device_memory(adapted, CONFIG, prompt=100, reply=5).memory
    assert (one.weights, one.gradients, one.optimizer) == (2 * WHOLE + 4 * adapters, 4 * adapters, 8 * adapters)
    assert one.reference == 0


def settings(**changes: Any) -> RunSettings:
    """Two groups of four and two contexts of four, one message of at most 10 tokens each."""
    values: dict[str, Any] = {
        "engine": EngineSettings(name=Engine.TRL),
        "trainer": TrainerSettings(queries=2, group_size=4, horizon=Horizon.CALL, token_budget=50, beta=0.0),
        "rollouts": RolloutSettings(max_tokens=10, max_turns=3),
        "fission": FissionSettings(contexts=2, group_size=4, horizon=Horizon.CALL),
        **changes,
    }
    return RunSettings(**values)


def test_a_micro_batch_by_hand() -> None:
    # Prompt 100, answer 10, feedback 5, recovery 10. Explored: 100 + 4 x 10; recovered: 115 + 4 x 10.
    # A pass holds 50, or twice the longest row of 125.
    found = micro_batch(settings(), prompt=100, reply=5, window=1000)
    assert found == MicroBatch(rows=8, tokens=140 + 155, in_pass=250, scored=80, longest=125)
    # Two rows of a group: its prompt; two recoveries of one context.
    halved = settings(engine=EngineSettings(name=Engine.TRL, micro_batch=2))
    found = micro_batch(halved, prompt=100, reply=5, window=1000)
    assert found == MicroBatch(rows=4, tokens=120 + 135, in_pass=250, scored=40, longest=125)
    # Without the tree every row is as long as the longest, and TRL reads all of them in one pass.
    rows = settings(trainer=settings().trainer.model_copy(update={"tree": False}))
    found = micro_batch(rows, prompt=100, reply=5, window=1000)
    assert found == MicroBatch(rows=8, tokens=8 * 125, in_pass=8 * 125, scored=80, longest=125)
    # Three messages and two replies; nothing is recovered.
    turns = settings().trainer.model_copy(update={"horizon": Horizon.TURN})
    found = micro_batch(settings(trainer=turns, fission=FissionSettings()), prompt=100, reply=5, window=1000)
    assert found == MicroBatch(rows=4, tokens=100 + 4 * 40, in_pass=260, scored=160, longest=140)
    # A window of 110 leaves no room for recoveries.
    found = micro_batch(settings(), prompt=100, reply=5, window=110)
    assert (found.longest, found.scored) == (110, 40)


CONFIG = Qwen3Config(
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    intermediate_size=16,
    vocab_size=100,
    max_position_embeddings=1000,
    tie_word_embeddings=False,
)
LAYER, ROOT = 128 + 64 + 384 + 16 + 8, 2 * 100 * 8 + 8
WHOLE = 3 * LAYER + ROOT


def memory(engine: dict[str, Any], **changes: Any) -> Any:
    placed = settings(engine=EngineSettings(name=Engine.TRL, **engine), **changes)
    return device_memory(placed, CONFIG, prompt=100, reply=5).memory


def test_what_is_kept_where() -> None:
    one = memory({})
    assert (one.weights, one.gradients, one.optimizer) == (4 * WHOLE, 4 * WHOLE, 8 * WHOLE)
    assert (one.reference, one.at_work, one.exchange, one.generator) == (0, 0, 0, 0)
    # Eight dialogues of 125 tokens; keys and values of three layers, one head of four, in single precision.
    assert one.cache == 8 * 125 * 2 * 3 * 4 * 4
    cast = memory({"autocast": True})  # keys stay in single precision
    assert (cast.weights, cast.at_work, cast.cache) == (4 * WHOLE, 2 * WHOLE, one.cache * 3 // 4)
    copies = memory({"gpus": 2})
    assert (copies.weights, copies.exchange) == (4 * WHOLE, 4 * WHOLE)
    held = memory({}, trainer=settings().trainer.model_copy(update={"beta": 0.1}))
    assert held.reference == 4 * WHOLE
    adapted = memory({}, lora=LoraSettings(rank=2))
    adapters = 3 * 2 * ((8 + 8) + 2 * (8 + 4) + (8 + 8) + 2 * (8 + 16) + (16 + 8))
    assert (adapted.weights, adapted.gradients) == (4 * (WHOLE + adapters), 4 * adapters)
    vllm = {"vllm": VllmMode.COLOCATE, "gpu_memory": 2.0, "gpus": 2}
    spread = memory({**vllm, "sharding": Sharding.FSDP2, "autocast": True})
    assert (spread.weights, spread.gradients, spread.optimizer) == (2 * WHOLE, 2 * WHOLE, 4 * WHOLE)
    assert (spread.at_work, spread.exchange, spread.cache) == (2 * (2 * ROOT + 3 * LAYER), 0, 0)
    assert spread.generator == int(0.3 * 2 * 2**30)
    zero2 = memory({"gpus": 2, "sharding": Sharding.ZERO2, "autocast": True})
    assert (zero2.weights, zero2.gradients, zero2.optimizer) == (2 * WHOLE, 2 * WHOLE, 6 * WHOLE)
    assert zero2.exchange == 2 * 2 * WHOLE
    zero3 = memory({**vllm, "sharding": Sharding.ZERO3, "autocast": True})
    assert (zero3.weights, zero3.at_work, zero3.exchange) == (WHOLE, 2 * WHOLE, 2 * WHOLE)


def test_a_device_that_is_too_small_is_said_with_remedies() -> None:
    told = device_memory(settings(engine=EngineSettings(name=Engine.TRL, gpu_memory=1e-4)), CONFIG, prompt=100)
    assert told.fits is False
    assert "WARNING: this does not fit with 8% to spare; set trainer.gradient_checkpointing=true" in "\n".join(
        told.lines()
    )
    engine = EngineSettings(name=Engine.TRL, gpu_memory=3.0, vllm=VllmMode.COLOCATE, vllm_share=0.3)
    full = device_memory(settings(engine=engine), CONFIG, prompt=100)
    assert "vLLM has room for 0 tokens and not for a dialogue of 1,000" in "\n".join(full.lines())
    unknown = device_memory(settings(), CONFIG, prompt=100)
    assert unknown.fits is None
    assert "engine.gpu_memory is not given" in "\n".join(unknown.lines())


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_a_recipe_for_gpus_is_the_paper_s_step(name: Recipe) -> None:
    found, paper = load_recipe(name), load_recipe(Recipe.PAPER)
    each, devices = found.share_of(found.engine.devices), found.engine.devices
    assert each.trainer.queries * devices == found.trainer.queries == paper.trainer.queries == 8
    for name in ("contexts", "trigger", "capacity"):
        assert getattr(each.fission, name) * devices == getattr(paper.fission, name)
    assert found.rollouts == paper.rollouts
    assert not found.fission.own_step


@pytest.mark.parametrize("machines", [{}, {"engine.gpus": 1}, {"engine.nodes": 2}])
def test_inside_verl_the_paper_s_step_is_the_same_on_any_number_of_gpus(machines: dict[str, int]) -> None:
    found, paper = recipe("paper", {"engine.name": "verl", **machines}), load_recipe(Recipe.PAPER)
    assert (found.trainer.queries, found.trainer.group_size, found.fission.group_size) == (8, 8, 8)
    assert (found.trainer.steps, found.trainer.temperature, found.trainer.top_k) == (234, 0.95, 50)
    assert found.fission == paper.fission
    assert found.fission.own_step
    assert (found.fission.horizon, found.trainer.horizon) == (Horizon.CALL, Horizon.CALL)
    assert found.rollouts == paper.rollouts
    assert found.engine.autocast
    assert found.engine.devices == machines.get("engine.gpus", 8) * machines.get("engine.nodes", 1)


def test_a_recipe_s_engine_may_be_named_in_a_file_and_overruled(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("engine: verl\n", encoding="utf-8")
    assert resolve(recipe=Recipe.PAPER, file=file).engine.vllm_window == 16384
    own = Setting(key=("engine", "name"), value="own", origin="command line")
    assert resolve(recipe=Recipe.PAPER, file=file, written=[own]) == recipe("paper", {"output": "runs/run-train-seed0"})


def test_the_recipes_for_gpus_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "memory.py"))
    plans = script["plans"](6000)
    assert set(plans) == {Recipe.PAPER, *GPU_RECIPES}
    assert all(plan.fits for plan in plans.values())
    assert all(plan.fits for plan in script["verl_plans"](6000).values())
    longest = script["plans"](load_recipe(Recipe.PAPER).rollouts.max_prompt)
    assert longest[Recipe.PAPER].fits
