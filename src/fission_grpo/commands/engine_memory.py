"""What a run takes of each GPU, at most, from its settings and the model's configuration alone: inside TRL or verl, and
in our own loop on one device (`models.memory`).

Everything is taken at its longest: each answer as long as `rollouts.max_tokens` lets it be, and every recovery due. How
FSDP2 and DeepSpeed keep a model is written from their documentation and has not been measured (numbers of trained
weights on N devices; 4 bytes each, moments 8):

    none     all of it on each device; with several (DDP), buckets as large as the gradients
    fsdp2    all of it / N; embedding, head and two layers gathered, and gradients of these before they are spread
    zero2    weights whole; gradients, moments and a master copy / N; two buckets of `BUCKET` numbers
    zero3    all of it / N; at most `LIVE` numbers gathered; one bucket

Against the peak of a process that trains inside TRL on a CPU the sum is right within a fifth, in single precision and
under autocast (`tests/engines/trl/test_trl_memory.py`). It is of tensors: on CPUs, oneDNN also keeps compiled code for
each shape of a bfloat16 product (half a MiB each, more than 100 MiB in that run), unless it is switched off.
For verl, which spreads by FSDP2 and cuts micro-batches by tokens, nothing has been measured yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

from fission_grpo.config import RunSettings
from fission_grpo.engines import Engine
from fission_grpo.engines.settings import EngineSettings, Sharding, VllmMode
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import Precision
from fission_grpo.models.memory import (
    Memory,
    Parameters,
    activation_bytes,
    count_parameters,
    own_loop_memory,
    size_text,
)
from fission_grpo.policy.local.cost_model import cached_numbers
from fission_grpo.policy.local.hf_policy import MAX_ROWS, context_window
from fission_grpo.rollout import Horizon

GIB = 2**30
REPLY = 256
"""Tokens of a tool's reply or of feedback, taken for the plan; ours."""
TILE = (4096, 32768)
"""Tokens and entries of the vocabulary of which TRL's LM head makes logits at a time."""
TILE_COPIES = 3
"""Of a tile, in single precision, at the peak."""
HEADROOM = 0.08
"""Part of a GPU that the plan leaves to CUDA, NCCL, and what the allocator cannot use; ours."""
VLLM_EXTRA = GIB
"""What a colocated vLLM takes of its share beside weights and cache; ours, a guess."""
LOGIT_COPIES = 2
"""Of the logits of a whole micro-batch, in single precision, beside those themselves: verl, as read in its code."""
BUCKET = 500_000_000
"""DeepSpeed's `reduce_bucket_size` and `allgather_bucket_size`."""
LIVE = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What one process has of a model's graph before a backward pass, in tokens, at most."""

    rows: int
    tokens: int
    """Each shared prefix once; without the tree, padding included."""
    in_pass: int
    """Of the largest pass."""
    scored: int
    """Whose log-probability is read."""
    longest: int
    """Of one dialogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """What a colocated vLLM makes of its share."""

    weights: int
    """Bytes of its copy."""
    tokens: int
    """Of keys and values that find room; below 0 where its weights alone do not."""
    window: int
    """Most tokens of a dialogue, for which it must have room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """One GPU."""

    memory: Memory
    room: int | None
    """Bytes that it has; None where nobody said."""
    micro_batch: MicroBatch
    sampler: Sampler | None
    remedies: tuple[str, ...]
    """What would make it less, the cheapest first."""

    @property
    def fits(self) -> bool | None:
        """With `HEADROOM` to spare, and vLLM with room for a dialogue; None where the device is not known."""
        if self.room is None:
            return None
        sampled = self.sampler is None or self.sampler.tokens >= self.sampler.window
        return sampled and self.memory.total <= (1 - HEADROOM) * self.room

    def lines(self) -> Iterator[str]:
        """For a person."""
        work = self.micro_batch
        yield (
            f"memory       of one GPU, at most: {work.rows} rows and {work.tokens:,} tokens a micro-batch, "
            f"{work.in_pass:,} in a pass"
        )
        for field in fields(self.memory):
            if count := getattr(self.memory, field.name):
                yield f"  {field.name:<12} {size_text(count):>10}"
        room = "engine.gpu_memory is not given" if self.room is None else f"of {size_text(self.room)}"
        yield f"  {'total':<12} {size_text(self.memory.total):>10}  {room}"
        if self.sampler:
            tokens = f"{max(self.sampler.tokens, 0):,} tokens of keys and values"
            yield f"  in vLLM's share: weights {size_text(self.sampler.weights)}, room for {tokens}"
        if self.fits is False:
            yield f"  WARNING: {self._shortage()}"

    def _shortage(self) -> str:
        if self.sampler and self.sampler.tokens < self.sampler.window:
            return (
                f"vLLM has room for {max(self.sampler.tokens, 0):,} tokens and not for a dialogue of "
                f"{self.sampler.window:,}; raise engine.vllm_share or lower engine.vllm_window"
            )
        return f"this does not fit with {HEADROOM:.0%} to spare; {', or '.join(self.remedies)}"


def device_memory(settings: RunSettings, config: Any, *, prompt: int, reply: int = REPLY) -> DeviceMemory:
    """The plan of one GPU.

    Args:
        config: of the text model, as transformers writes it.
        prompt: tokens of the longest prompt.
        reply: tokens of a tool's reply, or of feedback.
    Raises:
        ConfigError: see `micro_batches`.
    """
    engine, parameters = _in_use(settings.engine), count_parameters(config, settings.lora)
    settings = settings.model_copy(update={"engine": engine})
    if engine.name is Engine.TRL:
        settings = settings.share_of(engine.devices)
    work = micro_batch(settings, prompt=prompt, reply=reply, window=context_window(config))
    if engine.name is Engine.OWN:
        work = _by_budget(settings, work)
    if engine.name is Engine.VERL:
        work = _by_tokens(settings, work)
    room = None if engine.gpu_memory is None else int(engine.gpu_memory * GIB)
    share = int(engine.vllm_share * room) if room and engine.vllm is VllmMode.COLOCATE else 0
    return DeviceMemory(
        memory=_own_memory(settings, config, parameters, work)
        if engine.name is Engine.OWN
        else _memory(settings, config, parameters, work, share),
        room=room,
        micro_batch=work,
        sampler=_sampler(engine, config, parameters, share) if share else None,
        remedies=tuple(_remedies(settings)),
    )


def _in_use(engine: EngineSettings) -> EngineSettings:
    """What goes without saying in verl."""
    if engine.name is not Engine.VERL:
        return engine
    sharding = Sharding.FSDP2 if engine.devices > 1 else Sharding.NONE
    return engine.model_copy(update={"vllm": VllmMode.COLOCATE, "sharding": sharding})


def _by_tokens(settings: RunSettings, work: MicroBatch) -> MicroBatch:
    """verl's micro-batch: as many whole dialogues as a budget of tokens holds, each with a backward pass of its own."""
    tokens = max(settings.trainer.token_budget, settings.engine.vllm_window or work.longest)
    return MicroBatch(
        rows=ceil(tokens / work.longest), tokens=tokens, in_pass=tokens, scored=tokens, longest=work.longest
    )


def _by_budget(settings: RunSettings, work: MicroBatch) -> MicroBatch:
    """The micro-batch of our own loop: as much of the whole step as the budget of tokens holds."""
    parts, budget = micro_batches(settings), max(settings.trainer.token_budget, 2 * work.longest)
    tokens = min(parts * work.tokens, budget)
    return MicroBatch(
        rows=parts * work.rows,
        tokens=tokens,
        in_pass=tokens,
        scored=min(parts * work.scored, tokens),
        longest=work.longest,
    )


def _own_memory(settings: RunSettings, config: Any, parameters: Parameters, work: MicroBatch) -> Memory:
    trainer, fission = settings.trainer, settings.fission
    sampled = max(trainer.queries * trainer.group_size, fission.contexts * fission.group_size)
    return own_loop_memory(
        config,
        parameters,
        size=2 if settings.precision is Precision.BF16 else 4,
        beta=trainer.beta,
        recompute=trainer.gradient_checkpointing,
        rows=min(sampled, trainer.max_rows),
        longest=work.longest,
        tokens=work.tokens,
        scored=work.scored,
    )


def micro_batches(settings: RunSettings) -> int:
    """Of a step and process.

    Raises:
        ConfigError: what is explored cannot be cut into pieces of `engine.micro_batch`.
    """
    explored = settings.trainer.queries * settings.trainer.group_size
    size = settings.engine.micro_batch or settings.trainer.group_size
    if explored % size:
        raise ConfigError(
            f"engine.micro_batch={size} does not divide the {explored} trajectories that a process explores in a step; "
            f"choose a divisor of {explored}"
        )
    return explored // size


def micro_batch(settings: RunSettings, *, prompt: int, reply: int, window: int) -> MicroBatch:
    """The largest micro-batch: every answer at its longest, recoveries from failures of other groups.

    Args:
        prompt, reply: tokens of the longest ones.
        window: most tokens that the model holds.
    Raises:
        ConfigError: see `micro_batches`.
    """
    trainer, fission, parts = settings.trainer, settings.fission, micro_batches(settings)
    explored = trainer.queries * trainer.group_size // parts
    recovered = ceil((explored * parts + fission.contexts * fission.group_size) / parts) - explored
    contexts = min(ceil(fission.contexts / parts), recovered)
    longest = min(window, prompt + _said(settings, trainer.horizon, reply))
    corrected = min(window, longest + reply)
    recovery = min(window, corrected + _said(settings, fission.horizon, reply)) if recovered else longest
    answer, second = longest - prompt, recovery - corrected if recovered else 0
    scored = explored * answer + recovered * second
    if trainer.tree:
        tokens = ceil(explored / trainer.group_size) * prompt + contexts * corrected + scored
        in_pass = min(tokens, max(trainer.token_budget, 2 * recovery))
    else:
        tokens = in_pass = (explored + recovered) * recovery
    return MicroBatch(
        rows=explored + recovered, tokens=tokens, in_pass=in_pass, scored=scored, longest=max(longest, recovery)
    )


def _said(settings: RunSettings, horizon: Horizon, reply: int) -> int:
    """Tokens of a trajectory behind its prompt."""
    rollouts = settings.rollouts
    turns = 1 if horizon is Horizon.CALL else rollouts.max_turns
    return turns * rollouts.max_tokens + (turns - 1) * reply


def _memory(settings: RunSettings, config: Any, parameters: Parameters, work: MicroBatch, share: int) -> Memory:
    engine, adapted = settings.engine, settings.lora is not None
    kept = 2 if settings.precision is Precision.BF16 else 4
    size = 2 if engine.autocast else kept
    speed = engine.sharding in (Sharding.ZERO2, Sharding.ZERO3)  # DeepSpeed keeps weights as they are computed with
    devices = engine.devices if engine.sharding is not Sharding.NONE else 1
    weights = parameters.whole * size if speed else parameters.base * kept + (parameters.whole - parameters.base) * 4
    master = parameters.trained * 4 * (speed and size < 4)
    spread = engine.devices if engine.sharding.spreads_weights else 1
    whole = engine.sharding is Sharding.NONE
    stream = max(kept, size) if whole else size
    rows = min(settings.trainer.queries * settings.trainer.group_size, MAX_ROWS)
    cached = rows * cached_numbers(config) * (stream + size) // 2  # rotation leaves keys as wide as the stream
    return Memory(
        weights=ceil(weights / spread),
        gradients=ceil(parameters.trained * 4 / devices),
        optimizer=ceil((parameters.trained * 8 + master) / devices),
        reference=ceil(parameters.base * kept / spread) if settings.trainer.beta and not adapted else 0,
        cache=0 if engine.vllm is not VllmMode.OFF else cached * work.longest,
        activations=activation_bytes(
            config,
            tokens=work.tokens,
            size=size,
            recompute=settings.trainer.gradient_checkpointing,
            at_once=work.in_pass,
            stream=stream,
        )
        + (_whole_head if engine.name is Engine.VERL else _head)(config, work, size=size, trained=not adapted),
        at_work=_at_work(engine, parameters, size, cast=size < 4 and whole),
        exchange=_exchange(engine, parameters, size),
        generator=share,
    )


def _at_work(engine: EngineSettings, parameters: Parameters, size: int, *, cast: bool) -> int:
    """Weights in the passes; autocast keeps what it has cast of those that are trained."""
    if engine.sharding is Sharding.FSDP2:
        return size * (2 * parameters.root + 3 * parameters.layer)
    if engine.sharding is Sharding.ZERO3:
        return size * min(parameters.whole, LIVE)
    return size * parameters.trained * cast


def _exchange(engine: EngineSettings, parameters: Parameters, size: int) -> int:
    if engine.devices == 1 or engine.sharding is Sharding.FSDP2:
        return 0
    buckets = {Sharding.NONE: 4 * parameters.trained, Sharding.ZERO2: 2 * size * min(parameters.trained, BUCKET)}
    return buckets.get(engine.sharding, size * min(parameters.trained, BUCKET))


def _head(config: Any, work: MicroBatch, *, size: int, trained: bool) -> int:
    """TRL's LM head: what it has read, gradients of that and of itself in single precision, and a tile of logits."""
    hidden, vocabulary = int(config.hidden_size), int(config.vocab_size)
    at_once = min(work.scored, work.in_pass)
    read = work.scored * hidden * size + at_once * hidden * 4
    tile = min(at_once, TILE[0]) * min(vocabulary, TILE[1])
    return read + 4 * (trained * vocabulary * hidden + TILE_COPIES * tile)


def _whole_head(config: Any, work: MicroBatch, *, size: int, trained: bool) -> int:
    """verl's LM head: logits of every token of a micro-batch at once; its gradient is among the others."""
    return work.in_pass * int(config.vocab_size) * (size + 4 * LOGIT_COPIES)


def _sampler(engine: EngineSettings, config: Any, parameters: Parameters, share: int) -> Sampler:
    """Weights and cache are of the type that the model's configuration names: bfloat16 if it names none."""
    size = getattr(getattr(config, "dtype", None), "itemsize", 2)
    weights = parameters.base * size
    return Sampler(
        weights=weights,
        tokens=(share - weights - VLLM_EXTRA) // (cached_numbers(config) * size),
        window=engine.vllm_window or context_window(config),
    )


def _remedies(settings: RunSettings) -> Iterator[str]:
    trainer, engine = settings.trainer, settings.engine
    if not trainer.gradient_checkpointing:
        yield "set trainer.gradient_checkpointing=true"
    if engine.name is Engine.OWN:
        yield f"lower trainer.max_rows (now {trainer.max_rows})"
    size = engine.micro_batch or trainer.group_size
    if size > 1 and engine.name is Engine.TRL:
        yield f"lower engine.micro_batch (now {size})"
    if trainer.gradient_checkpointing or engine.name is Engine.VERL:
        yield f"lower trainer.token_budget (now {trainer.token_budget:,})"
    yield f"lower rollouts.max_tokens (now {settings.rollouts.max_tokens:,})"
    if engine.vllm is VllmMode.COLOCATE:
        yield f"lower engine.vllm_share (now {engine.vllm_share:g})"
    if settings.precision is not Precision.BF16 and engine.name is Engine.OWN:
        yield "choose precision=bf16"
    if not engine.sharding.spreads_weights and engine.name is not Engine.OWN:
        yield "spread the weights with engine.sharding=fsdp2 and more engine.gpus"
    if settings.lora is None:
        yield "train adapters with lora.rank=16 and precision=bf16"
