"""What a run will cost, said before it costs anything: the plan of `--dry-run`.

Counts are exact upper bounds. Tokens are estimated from the first tasks, memory from the shapes, and time from a
rehearsal: all three stages and one update on a few tasks, with weights that are thrown away afterwards. A world, a
template or a simulator that is broken breaks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from math import ceil
from statistics import fmean

from fission_grpo.assembly import assemble
from fission_grpo.chat.format import ChatFormat
from fission_grpo.config import RunSettings
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_chat
from fission_grpo.models.memory import Memory, Parameters, own_loop_memory, size_text
from fission_grpo.progress import progress
from fission_grpo.run.outlook import REMEDIES
from fission_grpo.training.trainer import Trainer
from fission_grpo.types import Task

REHEARSED = 4
"""Tasks of the rehearsal."""
RENDERED = 200
"""Tasks whose prompts are measured."""
_PHASES = 8
"""Of a step, counted as they begin."""
SMALL = 2_000_000_000
"""Parameters up to which a model is given advice on templates and warm starts; this and the next two are ours."""
LONG = 300
"""Tokens of a prompt from which another template may be worth it."""
SHORTER = 0.5
"""Part of its tokens that the prompt must have in it."""
COMPACT = "nano"
"""Our template that describes tools in the fewest tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a few tasks were like."""

    rollouts: int
    faults: tuple[str, ...]
    """What broke by our own doing; a run would mask these trajectories."""
    success: float
    """Share of trajectories."""
    sampled_tokens: float
    """Mean of a trajectory."""
    longest: int
    """Tokens of the longest trajectory."""
    collect_seconds: float
    """For one group that an offline source looks at before the first update, feedback included; 0 without such."""
    explore_seconds: float
    """For one group."""
    observe_seconds: float
    """For one group of exploration: feedback on what failed in it, as long as the run has to wait for it."""
    recover_seconds: float | None
    """For one group; None if nothing was fissioned."""
    update_seconds: float | None
    """For one group; None if no group carried signal, so that there was nothing to update."""
    contexts: float
    """Corrective contexts that one group of exploration gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What the offline variant explores before the first update."""

    contexts: int
    """Wanted."""
    groups: int
    """If all fail as the rehearsed ones did."""
    rollouts: int
    """Of these groups."""
    most: int
    """Rollouts at most: each task is explored once."""

    def __str__(self) -> str:
        return (
            f"{self.contexts:,} contexts of the starting weights, for about {self.rollouts:,} rollouts before the "
            f"first update, at most {self.most:,}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """The cost of a run."""

    tasks: int
    updates: int
    """At most: where recoveries have a step of their own, some steps have none."""
    rollouts: int
    """Explorations; under a token budget, if they go on as the rehearsal did."""
    recoveries: int
    """At most: failures grow rare."""
    collection: Collection | None
    """None where failures are fissioned as they happen."""
    prompt_tokens: float
    """Mean of the first tasks."""
    sampled_tokens: int
    """Of the whole run, if it goes on as the rehearsal did."""
    parameters: int
    trained_parameters: int
    memory: Memory
    rehearsal: Rehearsal
    seconds: float | None
    """Extrapolated from the rehearsal: larger batches are faster for each group, episodes that grow are slower. None if
    the rehearsal had nothing to update."""
    advice: tuple[str, ...] = ()
    """For small models."""

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"tasks       {self.tasks:,}, prompts of {self.prompt_tokens:,.0f} tokens on average"
        yield f"updates     {self.updates:,}"
        yield f"rollouts    {self.rollouts:,} explorations, at most {self.recoveries:,} recoveries"
        if self.collection:
            yield f"pool        {self.collection}"
        yield f"tokens      about {self.sampled_tokens:,} sampled"
        yield f"parameters  {self.parameters:,}, of which {self.trained_parameters:,} are trained"
        yield f"memory      about {size_text(self.memory.total)} (an estimate from the shapes; {self.memory.parts()})"
        yield f"time        {_duration(self.seconds)}"
        yield f"rehearsal   {self.rehearsal.rollouts} rollouts, {self.rehearsal.success:.0%} right, " + (
            f"{len(self.rehearsal.faults)} broken by faults of ours: {self.rehearsal.faults[0]}"
            if self.rehearsal.faults
            else "no faults"
        )
        if not self.rehearsal.success:
            yield f"caution     nothing came out right in the rehearsal; if that stays, nothing is learned; {REMEDIES}"
        yield from (f"advice      {one}" for one in self.advice)


def make_plan(settings: RunSettings) -> RunPlan:
    """Assemble the run, rehearse it, and count; nothing is written.

    Raises:
        ConfigError: see `assemble`.
        RolloutError: the rehearsal found a broken part.
    """
    few = min(REHEARSED, settings.trainer.queries)
    trainer = assemble(settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"queries": few})}))
    with progress("rehearsal", total=_PHASES) as show:
        begun = count(1)
        rehearsal = rehearse(trainer, entering=lambda phase: show(next(begun), phase))
    steps, contexts = settings.trainer.steps, settings.fission.contexts
    recoveries = steps * contexts * settings.fission.group_size
    queries = _queries(settings, recoveries=recoveries, tokens=rehearsal.sampled_tokens)
    rollouts = steps * queries * settings.trainer.group_size
    collection = _collection(settings, tasks=len(trainer.tasks), found=rehearsal.contexts)
    sampled = rollouts + recoveries + (collection.rollouts if collection else 0)
    parameters = list(trainer.learner.model.parameters())
    measured = trainer.tasks[:RENDERED]
    prompt = prompt_tokens(trainer.chat, measured)
    whole = sum(p.numel() for p in parameters)
    small = whole <= SMALL
    return RunPlan(
        tasks=len(trainer.tasks),
        updates=steps * (2 if contexts and settings.fission.own_step else 1),
        rollouts=rollouts,
        recoveries=recoveries,
        collection=collection,
        prompt_tokens=prompt,
        sampled_tokens=round(sampled * rehearsal.sampled_tokens),
        parameters=whole,
        trained_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        memory=estimate_memory(trainer, rows=max(rollouts, recoveries) // steps, longest=rehearsal.longest),
        rehearsal=rehearsal,
        seconds=estimate_seconds(
            rehearsal,
            steps=steps,
            queries=queries,
            contexts=contexts,
            collected=collection.groups if collection else 0,
        ),
        advice=tuple(advise(settings, measured, prompt=prompt, success=rehearsal.success)) if small else (),
    )


def prompt_tokens(chat: ChatFormat, tasks: Sequence[Task]) -> float:
    """Mean of some tasks."""
    return fmean(len(chat.prompt(task.messages, task.tools)) for task in tasks)


def advise(settings: RunSettings, tasks: Sequence[Task], *, prompt: float, success: float) -> Iterator[str]:
    """What helps a small model, as far as a few tasks show.

    Args:
        tasks: some of the run's.
        prompt: mean tokens of their prompts.
        success: share of the rehearsed trajectories.
    """
    if prompt >= LONG and settings.chat_template != COMPACT:
        with suppress(ConfigError):  # it has no place in this template
            compact = prompt_tokens(load_chat(settings.model, chat_template=COMPACT), tasks)
            if compact <= SHORTER * prompt:
                yield (
                    f"prompts have {prompt:,.0f} tokens; with chat_template={COMPACT} they would have {compact:,.0f}, "
                    "and a model that has not learned that form needs a warm start in it (`fission sft`)"
                )
    if not success:
        yield (
            "nothing was right: a warm start on gold dialogues teaches a small model the form of a call; "
            "`fission sft` with the same settings, then --model with its policy"
        )


def _queries(settings: RunSettings, *, recoveries: int, tokens: float) -> int:
    """Tasks that a step explores; under a token budget as many as it has room for.

    Args:
        recoveries: of the whole run.
        tokens: mean of a trajectory; 0 where all broke.
    """
    trainer = settings.trainer
    if not trainer.sampled_tokens or not tokens:
        return trainer.queries + trainer.turn_queries
    return max(1, round((trainer.sampled_tokens / tokens - recoveries) / trainer.steps / trainer.group_size))


def rehearse(trainer: Trainer, *, entering: Callable[[str], None] = lambda phase: None) -> Rehearsal:
    """One step of the loop on the trainer's first tasks, timed. Changes its weights and leaves its files alone.

    Args:
        entering: told each phase as it begins.
    """
    outcome = trainer.make_step(collect_at_most=1, entering=entering)
    explored, recovered = outcome.groups, outcome.fission_groups
    seconds, updated = outcome.seconds, len(explored) + len(recovered)
    trajectories = [member.trajectory for group in explored for member in group.members]
    return Rehearsal(
        rollouts=len(trajectories),
        faults=tuple(dict.fromkeys(t.fault for t in trajectories if t.fault)),
        success=fmean(member.success for group in explored for member in group.members),
        sampled_tokens=fmean(sum(t.sampled) for t in trajectories),
        longest=max(len(member.trajectory.ids) for group in [*explored, *recovered] for member in group.members),
        collect_seconds=seconds["collect"] / len(outcome.collected) if outcome.collected else 0.0,
        explore_seconds=seconds["explore"] / len(explored),
        observe_seconds=seconds["observe"] / len(explored),
        recover_seconds=seconds["recover"] / len(recovered) if recovered else None,
        update_seconds=seconds["update"] / updated if outcome.update.trained_tokens else None,
        contexts=trainer.source.count.observed / len(explored),
    )


def estimate_memory(trainer: Trainer, *, rows: int, longest: int) -> Memory:
    """From the shapes alone; allocators and kernels add their own.

    Args:
        rows: sequences that are sampled side by side, before the policy's own limit.
        longest: tokens of the longest trajectory.
    """
    model, settings = trainer.learner.model, trainer.settings
    budget = max(settings.token_budget, 2 * longest)  # the least that a tree is cut into
    trained = sum(p.numel() for p in trainer.learner.parameters)
    return own_loop_memory(
        model.config.get_text_config(),
        Parameters(whole=sum(p.numel() for p in model.parameters()), trained=trained, layer=0, root=0),
        size=model.dtype.itemsize,
        beta=settings.beta,
        recompute=settings.gradient_checkpointing,
        rows=min(rows, settings.max_rows),
        longest=longest,
        tokens=budget,
        scored=budget,
    )


def _collection(settings: RunSettings, *, tasks: int, found: float) -> Collection | None:
    """What a pool will take, if it goes on as the rehearsal did: `found` contexts in a group."""
    fission, trainer = settings.fission, settings.trainer
    if not (fission.pool and fission.contexts):
        return None
    most = ceil(tasks / trainer.queries)
    turns = min(most, ceil(fission.pool / (found * trainer.queries))) if found else most
    return Collection(
        contexts=fission.pool,
        groups=turns * trainer.queries,
        rollouts=turns * trainer.queries * trainer.group_size,
        most=most * trainer.queries * trainer.group_size,
    )


def estimate_seconds(rehearsal: Rehearsal, *, steps: int, queries: int, contexts: int, collected: int) -> float | None:
    """What a run takes if it goes on as the rehearsal did; None if the rehearsal had nothing to update.

    Args:
        steps, queries, contexts: of the run: updates, groups of exploration in a step, and of recovery at most.
        collected: groups that an offline source looks at before the first update.
    """
    if rehearsal.update_seconds is None:
        return None
    recover = rehearsal.explore_seconds if rehearsal.recover_seconds is None else rehearsal.recover_seconds
    explored = queries * (rehearsal.explore_seconds + rehearsal.observe_seconds)
    step = explored + contexts * recover + (queries + contexts) * rehearsal.update_seconds
    return collected * rehearsal.collect_seconds + steps * step


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: no rehearsed group carried signal, so no update could be timed"
    if seconds < 600:
        return f"about {seconds:.0f} s on this machine, if episodes stay as rehearsed"
    if seconds < 36_000:
        return f"about {seconds / 60:.0f} min on this machine, if episodes stay as rehearsed"
    return f"about {seconds / 3600:.0f} h on this machine, if episodes stay as rehearsed"
