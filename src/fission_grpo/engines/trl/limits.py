"""What cannot be exact inside TRL is refused, with the reason, before anything expensive.

The rows of a step are as many on every process and in every step, and some of them weigh nothing (masked trajectories,
recoveries that were not due). TRL's losses take this in three ways:

    dapo, cispo, vespo          divide by the trained tokens of all rows: rows of no weight do not count
    grpo, sapo, luspo, dr_grpo  take a mean over rows: ours multiplies the loss by rows / rows of weight, which is exact
    bnpo                        divides by the trained tokens of a micro-batch: exact only where there is one of them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fission_grpo.algorithm.advantages import Scale
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.errors import ConfigError

TOKEN_LOSSES = frozenset({"dapo", "cispo", "vespo"})
ROW_LOSSES = frozenset({"grpo", "sapo", "luspo", "dr_grpo"})
MICRO_BATCH_LOSSES = frozenset({"bnpo"})

SCALES: Mapping[str, Scale] = MappingProxyType({"group": Scale.STD, "none": Scale.NONE})
"""TRL's `scale_rewards` as what centred rewards are divided by. TRL's standard deviation is that of a sample
(divided by G - 1), ours that of the group (divided by G): advantages are larger by sqrt(G / (G - 1))."""


def fission_for(args: Any) -> FissionSettings:
    """The settings of somebody who gave none: half as many contexts as groups, and G' = G; ours."""
    groups = args.generation_batch_size // args.num_generations
    ranks = args.world_size
    contexts = ranks * max(1, groups // (2 * ranks))
    return FissionSettings(contexts=contexts, group_size=args.num_generations, capacity=8 * contexts)


def require_exact(args: Any, fission: FissionSettings, *, samples_itself: bool) -> None:
    """Refuse what would not be what it says.

    Args:
        args: a `GRPOConfig`.
        samples_itself: whether the policy is ours (`HFPolicy`) and not TRL's vLLM.
    Raises:
        ConfigError: the first of the reasons.
    """
    for reason in (*_batch(args), *_loss(args), *_fission(fission), *(_sampling(args) if samples_itself else ())):
        raise ConfigError(reason)


def require_tasks(rows: Any, args: Any) -> None:
    """Every process needs tasks, in every step.

    Raises:
        ConfigError: a data set is shorter than what one step takes.
    """
    needed = args.generation_batch_size // args.num_generations
    if isinstance(rows, Sequence) or hasattr(rows, "__len__"):
        count = len(rows)
        if count < needed:
            raise ConfigError(
                f"got {count} rows, and each step of {args.world_size} process(es) explores {needed}; "
                "add tasks, or lower per_device_train_batch_size or gradient_accumulation_steps"
            )


def require_whole_weights(trainer: Any) -> None:
    """Our sampler calls the model's layers by itself, each process at its own pace.

    Raises:
        ConfigError: the weights are spread over processes, which would wait for each other for ever.
    """
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    spread = "DeepSpeed ZeRO-3" if plugin is not None and plugin.zero_stage == 3 else ""
    spread = spread or ("FSDP" if trainer.is_fsdp_enabled else "")
    if spread:
        raise ConfigError(
            f"{spread} spreads the weights over processes, and sampling from the model itself would wait for weights "
            "that no other process sends; set use_vllm=True, or use DDP or ZeRO-2"
        )


def _batch(args: Any) -> Iterator[str]:
    local, size = args.per_device_train_batch_size * args.steps_per_generation, args.num_generations
    if local % size:
        yield (
            f"a group must stay in one process: got per_device_train_batch_size * steps_per_generation = {local}, "
            f"expected a multiple of num_generations = {size}"
        )
    evaluated, size = args.per_device_eval_batch_size, args.num_generations_eval or args.num_generations
    if args.eval_strategy != "no" and evaluated % size:
        yield (
            f"a group must stay in one process: got per_device_eval_batch_size = {evaluated}, expected a multiple of "
            f"num_generations_eval = {size}"
        )
    every, steps = args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps
    if every % steps and steps % every:
        yield (
            f"got steps_per_generation * num_iterations = {every} with gradient_accumulation_steps = {steps}: "
            "updates and samples would drift apart; let one divide the other"
        )


def _loss(args: Any) -> Iterator[str]:
    known = TOKEN_LOSSES | ROW_LOSSES | MICRO_BATCH_LOSSES
    if args.loss_type not in known:
        yield f"loss_type={args.loss_type} is not known to be exact here; choose one of {', '.join(sorted(known))}"
    if args.loss_type in MICRO_BATCH_LOSSES and args.steps_per_generation > 1:
        yield (
            f"loss_type={args.loss_type} averages over micro-batches, some of which may hold no row of weight, so that "
            "it depends on how rows fall; choose dapo, or steps_per_generation=1"
        )
    if args.loss_type not in TOKEN_LOSSES and (args.entropy_coef or args.use_adaptive_entropy):
        yield (
            f"an entropy bonus with loss_type={args.loss_type} would be weighed by rows of no weight; choose dapo, or "
            "entropy_coef=0 and use_adaptive_entropy=False"
        )
    if args.scale_rewards not in SCALES:
        yield (
            f"scale_rewards={args.scale_rewards} would give exploration and recoveries one spread; each group has its "
            "own baseline: choose group or none"
        )
    if args.multi_objective_aggregation != "sum_then_normalize":
        yield (
            f"multi_objective_aggregation={args.multi_objective_aggregation} normalises each reward over the whole "
            "batch, recoveries included; choose sum_then_normalize"
        )


def _fission(fission: FissionSettings) -> Iterator[str]:
    if fission.own_step:
        yield "fission.own_step=True needs two updates a step, and TRL makes one; set own_step=False"
    if fission.pool:
        yield (
            f"fission.pool={fission.pool} explores all tasks before the first step, which TRL has no place for; set "
            "pool=0, or use `fission train --engine own`"
        )


def _sampling(args: Any) -> Iterator[str]:
    odd = {
        "top_p": args.top_p != 1.0,
        "min_p": bool(args.min_p),
        "repetition_penalty": args.repetition_penalty != 1.0,
        "generation_kwargs": bool(args.generation_kwargs),
        "cache_implementation": bool(args.cache_implementation),
        "use_transformers_continuous_batching": bool(args.use_transformers_continuous_batching),
    }
    for name in (name for name, asked in odd.items() if asked):
        yield (
            f"{name}={getattr(args, name)!r} is not known to our sampler, which takes temperature and top_k; leave it "
            "out, or set use_vllm=True"
        )
