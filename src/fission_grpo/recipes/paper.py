"""The authors' setting (arXiv:2601.15625), as far as it is known; meant for one node of 80 GB GPUs.

Known: 8 queries of G = 8, G' = 8, learning rate 1e-6, temperature 0.95, top-k 50, prompts of at most 12,800 tokens,
answers of at most 4,096, 630 training instances (ours: as many decision points, of 169 dialogues, half of which have
two user messages), 234 steps. Recoveries are single messages under exploration's own reward and reference; that they
are updated on in a step of their own is the likelier reading. Ours: the task synthesis, the trigger (one batch of
contexts), the buffer (four batches), no KL, and the simulator `rules`, where the authors trained one of 32 billion
parameters. Weights in bf16 with master copies, eight trajectories side by side and activations computed again: by the
plan, Qwen3-1.7B fits one GPU of 80 GB with prompts of 12,800 tokens.

Inside verl (`--engine verl`) a step is the same whatever the number of GPUs, and both updates are made. The three for
GPUs of a given size train inside TRL and sample with a vLLM beside it; they keep the authors' numbers for a step of the
whole run, but that explorations and recoveries are one update. None of these has run on a GPU yet: that they fit is
arithmetic (`benchmarks/memory.py`).
"""

from __future__ import annotations

from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.config import RunSettings
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings, Sharding, VllmMode
from fission_grpo.models.catalog import Precision
from fission_grpo.models.lora import LoraSettings
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.tasks.training_set import SyntheticSettings
from fission_grpo.training.settings import TrainerSettings


def paper_settings() -> RunSettings:
    """Decision points, one assistant message each; give the folder of your Qwen3 with `--model`."""
    return RunSettings(
        model="Qwen/Qwen3-1.7B",
        precision=Precision.BF16,
        engine=EngineSettings(gpu_memory=79.0),
        synthetic=SyntheticSettings(count=169, two_turns=0.5, decision_positions=True),
        trainer=TrainerSettings(
            steps=234,
            queries=8,
            group_size=8,
            horizon=Horizon.CALL,
            temperature=0.95,
            top_k=50,
            beta=0.0,
            learning_rate=1e-6,
            token_budget=32768,
            gradient_checkpointing=True,
            max_rows=8,
        ),
        rollouts=RolloutSettings(max_tokens=4096, max_turns=8, max_prompt=12800),
        fission=FissionSettings(contexts=8, group_size=8, trigger=8, capacity=32, horizon=Horizon.CALL, own_step=True),
    )


DIALOGUE_WINDOW = 16384
"""Tokens of a dialogue: 6,000 of a prompt, an answer that fails, feedback, and its recovery, with room; ours."""


def paper_inside_verl() -> RunSettings:
    """Every weight of Qwen3-1.7B, 4B or 8B on the authors' eight GPUs; `engine.gpus` and `engine.nodes` change the
    machines and not the step. verl has the logits of a whole micro-batch at once, so its tokens are fewer."""
    engine = EngineSettings(
        name=Engine.VERL,
        vllm_share=0.25,
        vllm_window=DIALOGUE_WINDOW,
        autocast=True,
        gpus=8,
        gpu_memory=79.0,
    )
    settings = paper_settings()
    trainer = settings.trainer.model_copy(update={"token_budget": DIALOGUE_WINDOW})
    return settings.model_copy(update={"engine": engine, "precision": Precision.FP32, "trainer": trainer})


def one_small_gpu() -> RunSettings:
    """Adapters of Qwen3-1.7B on 24 GB (22 GiB, as an A10G or L4 has): half a group a micro-batch."""
    engine = EngineSettings(
        name=Engine.TRL,
        vllm=VllmMode.COLOCATE,
        vllm_share=0.35,
        vllm_window=DIALOGUE_WINDOW,
        autocast=True,
        micro_batch=2,
        gpu_memory=22.0,
    )
    # Adapters want steps of another size than whole weights; ours.
    settings = _inside_trl(engine, token_budget=16384, learning_rate=1e-5)
    return settings.model_copy(update={"precision": Precision.BF16, "lora": LoraSettings(rank=16)})


def one_large_gpu() -> RunSettings:
    """Every weight of Qwen3-1.7B on 80 GB."""
    engine = EngineSettings(
        name=Engine.TRL,
        vllm=VllmMode.COLOCATE,
        vllm_share=0.25,
        vllm_window=DIALOGUE_WINDOW,
        autocast=True,
        micro_batch=4,
        gpu_memory=79.0,
    )
    return _inside_trl(engine, token_budget=32768)


def eight_large_gpus() -> RunSettings:
    """Every weight of Qwen3-8B, spread over eight GPUs of 80 GB: a query and a context for each of them."""
    engine = EngineSettings(
        name=Engine.TRL,
        vllm=VllmMode.COLOCATE,
        vllm_share=0.35,
        vllm_window=DIALOGUE_WINDOW,
        autocast=True,
        micro_batch=2,
        gpus=8,
        gpu_memory=79.0,
        sharding=Sharding.FSDP2,
    )
    return _inside_trl(engine, token_budget=32768).model_copy(update={"model": "Qwen/Qwen3-8B"})


def _inside_trl(engine: EngineSettings, **trainer: float) -> RunSettings:
    settings = paper_settings()
    return settings.model_copy(
        update={
            "engine": engine,
            "precision": Precision.FP32,  # autocast computes in bfloat16
            "trainer": settings.trainer.model_copy(update=trainer),
            "fission": settings.fission.model_copy(update={"own_step": False}),
        }
    )
