"""Policy x environment -> trajectory. Many at once, each at its own pace in a world of its own.

arXiv:2601.15625, stages 1 and 3, sample alike: stage 1 starts from the rendered task, stage 3 from a corrective
context with the world as it stood after the failed call. Only the `Start` differs. `rollout` asks a policy for a whole
batch; an engine that drives one dialogue at a time asks a `Dialogue` what to sample next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from fission_grpo.chat.format import ChatFormat
from fission_grpo.chat.parse import assistant_message, parse_message
from fission_grpo.chat.transcript import Transcript
from fission_grpo.environments.base import Environment, Environments, Snapshot
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.policy.base import Context, Policy, Sampling
from fission_grpo.settings import Settings
from fission_grpo.types import (
    Completion,
    EndReason,
    ErrorClass,
    FinishReason,
    Message,
    OutcomeKind,
    ParsedMessage,
    ParseFailure,
    Task,
    ToolCall,
    ToolOutcome,
    Turn,
    Verdict,
)


class Horizon(StrEnum):
    """How far a rollout goes."""

    CALL = "call"
    """One assistant message: the paper's decision point."""
    TURN = "turn"
    """Until the policy answers the user in words: it decides that it is done."""
    EPISODE = "episode"
    """Through all follow-up messages of the user."""


class RolloutSettings(Settings):
    """Limits of a rollout."""

    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of one assistant message."""
    max_turns: int = Field(default=8, ge=1)
    """Most assistant messages for one user message; `Horizon.EPISODE` goes through several of those."""
    max_prompt: int | None = Field(default=None, ge=1)
    """Most tokens of a task's prompt: longer ones are left out of the run. Paper: 12,800."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a trajectory begins."""

    task: Task
    transcript: Transcript
    """The tokens to continue; forked, never changed."""
    messages: tuple[Message, ...]
    """The same dialogue as messages, for simulators and traces."""
    environment: Environment | None
    """A world of its own, ready to take the next call; None for a task without one, and where it broke."""
    fault: str = ""
    """What broke while the world was built: the trajectory is invalid before its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The record of one rollout."""

    task: Task
    prompt: int
    """Leading tokens that were given: the rendered task, or a corrective context."""
    ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    """True exactly on the tokens that the policy sampled in this rollout."""
    logprobs: tuple[float, ...]
    """When they were sampled, in nats; 0 elsewhere."""
    given: tuple[Message, ...]
    """The dialogue before the first turn."""
    turns: tuple[Turn, ...]
    snapshots: tuple[Snapshot | None, ...]
    """The world after each turn; None without a world."""
    end: EndReason
    verdict: Verdict | None
    """The world's own judgement; None without a world, at a decision point, or after a fault of ours."""
    fault: str = ""
    """What broke, when `end` is HARNESS_FAULT."""

    @property
    def valid(self) -> bool:
        """False: a fault of ours touched it, so it is neither scored nor trained on."""
        return self.end is not EndReason.HARNESS_FAULT

    def dialogue(self, turns: int) -> tuple[Message, ...]:
        """The messages before turn `turns`: what was given, and the first `turns` turns with their replies."""
        messages = list(self.given)
        for turn in self.turns[:turns]:
            messages += turn_messages(turn.parsed, turn.text, [outcome.text for outcome in turn.outcomes])
        return tuple(messages)


def turn_messages(parsed: ParsedMessage, text: str, replies: Sequence[str]) -> list[Message]:
    """An assistant message and the tool messages that answer it."""
    return [assistant_message(parsed, text), *({"role": "tool", "content": reply} for reply in replies)]


def malformed_reply(failures: Sequence[ParseFailure]) -> ToolOutcome:
    """What a malformed message is answered with: the tool channel, never silence."""
    detail = "; ".join(failure.detail for failure in failures)
    return ToolOutcome(kind=OutcomeKind.ERROR, text=f"error: malformed tool call: {detail}", error=ErrorClass.FORMAT)


def render_prompts(tasks: Sequence[Task], *, chat: ChatFormat, window: int, max_tokens: int) -> list[tuple[int, ...]]:
    """The prompt of each task; every one must leave room for one answer.

    Args:
        window: most tokens that the policy can hold.
        max_tokens: most tokens of an answer.
    Raises:
        ConfigError: some do not; the longest is named. Or the template refuses a task's messages; the task is named.
    """
    prompts = [_prompt(task, chat) for task in tasks]
    lengths = [len(prompt) for prompt in prompts]
    if lengths and max(lengths) + max_tokens > window:
        count = sum(length + max_tokens > window for length in lengths)
        raise ConfigError(
            f"{count} of {len(tasks)} prompts leave no room for an answer: {tasks[lengths.index(max(lengths))].id} has "
            f"{max(lengths)} tokens, rollouts.max_tokens is {max_tokens}, the model's window {window}; "
            "lower rollouts.max_tokens, shorten these tasks, or offer them fewer tools"
        )
    return prompts


def _prompt(task: Task, chat: ChatFormat) -> tuple[int, ...]:
    try:
        return chat.prompt(task.messages, task.tools)
    except ConfigError as error:
        raise ConfigError(f"task {task.id}: {error}") from error


def open_task(task: Task, *, chat: ChatFormat, environments: Environments) -> Start:
    """Render a task and build its world; a world that cannot be built invalidates this start and no other.

    Raises:
        ConfigError: the task names a world that is not among `environments`.
    """
    return open_group(task, 1, chat=chat, environments=environments)[0]


def open_group(task: Task, size: int, *, chat: ChatFormat, environments: Environments) -> list[Start]:
    """Render a task once, and build a world for each of `size` trajectories.

    Raises:
        ConfigError: the task names a world that is not among `environments`.
    """
    transcript = Transcript(chat.prompt(task.messages, task.tools))
    return [start_from(task, transcript, task.messages, environments=environments) for _ in range(size)]


def start_from(
    task: Task,
    transcript: Transcript,
    messages: tuple[Message, ...],
    *,
    environments: Environments,
    prepare: Callable[[Environment], None] = lambda environment: None,
) -> Start:
    """A start with a world of its own, as the task begins it and `prepare` leaves it.

    Raises:
        ConfigError: the task names a world that is not among `environments`.
    """
    environment = new_environment(task, environments)
    if environment is None:
        return Start(task=task, transcript=transcript, messages=messages, environment=None)
    try:
        environment.reset(task)
        prepare(environment)
    except (EnvironmentFault, ConfigError) as fault:  # a world that a run cannot build must not end it
        return Start(task=task, transcript=transcript, messages=messages, environment=None, fault=str(fault))
    return Start(task=task, transcript=transcript, messages=messages, environment=environment)


def new_environment(task: Task, environments: Environments) -> Environment | None:
    """An environment for the task, not yet reset; None for a task without a world.

    Raises:
        ConfigError: the task names a world that is not among `environments`.
    """
    if task.world is None:
        return None
    if task.world.environment not in environments:
        known = ", ".join(sorted(environments)) or "none"
        raise ConfigError(f"task {task.id}: unknown environment '{task.world.environment}'; known: {known}")
    return environments[task.world.environment]()


def rollout(
    starts: Sequence[Start],
    *,
    policy: Policy,
    chat: ChatFormat,
    sampling: Sampling,
    horizons: Sequence[Horizon],
    max_turns: int,
    seed: int,
    report: Callable[[int], None] = lambda done: None,
    ended: Callable[[int, Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Sample one trajectory from each start, all side by side.

    Args:
        horizons: how far each trajectory goes.
        max_turns: most assistant messages for one user message.
        report: told how many more have ended.
        ended: told each one as soon as it has ended, with its place among the starts.

    Raises:
        PolicyError: sampling failed; nothing of this batch can be trusted.
    """
    dialogues = [
        Dialogue(
            start, chat=chat, horizon=horizon, max_turns=max_turns, room=policy.context_window - sampling.max_tokens
        )
        for start, horizon in zip(starts, horizons, strict=True)
    ]
    begun = [dialogue.context for dialogue in dialogues]
    running = [place for place, context in enumerate(begun) if context is not None]
    told: dict[int, Trajectory] = {}

    def end(place: int) -> None:
        report(1)
        if ended is not None:
            told[place] = dialogues[place].trajectory()
            ended(place, told[place])

    def reply(index: int, completion: Completion) -> Context | None:
        following = dialogues[running[index]].advance(completion)
        if following is None:
            end(running[index])
        return following

    for place, context in enumerate(begun):
        if context is None:
            end(place)
    contexts = [context for context in begun if context is not None]
    policy.converse(contexts, reply=reply, sampling=sampling, seed=seed)
    return [told.get(place) or dialogue.trajectory() for place, dialogue in enumerate(dialogues)]


class Dialogue:
    """One trajectory in the making, for engines that drive one dialogue at a time.

        while dialogue.context is not None:
            dialogue.advance(sample(dialogue.context))
        trajectory = dialogue.trajectory()

    Sampling is the engine's; what it samples is read and answered by the world here; `Judge` scores the trajectory.
    A dialogue can be pickled between two completions if its environment can.
    """

    def __init__(self, start: Start, *, chat: ChatFormat, horizon: Horizon, max_turns: int, room: int) -> None:
        """Continue a start; nothing is sampled yet.

        Args:
            horizon: how far it goes.
            max_turns: most assistant messages for one user message.
            room: most tokens of a context that still leaves room for a completion.
        """
        self._start = start
        self._chat = chat
        self._horizon = horizon
        self._max_turns = max_turns
        self._room = room
        self._transcript = start.transcript.fork()
        self._turns: list[Turn] = []
        self._snapshots: list[Snapshot | None] = []
        self._followups = list(start.task.followups)
        self._user_turn_began = 0
        self._fault = start.fault
        self.end: EndReason | None = None
        """None while it goes on."""
        if start.fault:
            self.end = EndReason.HARNESS_FAULT
        elif len(self._transcript.ids) > room:
            self.end = EndReason.CONTEXT

    @property
    def context(self) -> Context | None:
        """The token ids to continue; None once it has ended."""
        return self._transcript.ids if self.end is None else None

    def advance(self, completion: Completion) -> Context | None:
        """Read one completion, let the world answer, and decide whether to go on: with which context, or None.

        Raises:
            ValueError: it has ended.
        """
        if self.end is not None:
            raise ValueError(f"task {self._start.task.id}: the dialogue has ended ({self.end}); expected no completion")
        begin = len(self._transcript.ids)
        self._transcript.extend_sampled(completion)
        text = self._chat.decode(completion.ids)
        parsed = parse_message(text)
        outcomes = self._answer(parsed)
        snapshot: Snapshot | None = None
        with self._masking_faults():
            snapshot = self._snapshot()
        self._turns.append(Turn(completion=completion, text=text, parsed=parsed, outcomes=outcomes, start=begin))
        self._snapshots.append(snapshot)
        if self.end is None:
            with self._masking_faults():
                self._go_on(completion.finish, outcomes)
        return self.context

    @contextmanager
    def _masking_faults(self) -> Iterator[None]:
        """What the world breaks without saying so invalidates this trajectory and no other."""
        try:
            yield
        except EnvironmentFault as fault:
            self._invalidate(str(fault))

    def _invalidate(self, fault: str) -> None:
        self._fault = fault
        self.end = EndReason.HARNESS_FAULT

    def _answer(self, parsed: ParsedMessage) -> tuple[ToolOutcome, ...]:
        """The world's answers in the order of the calls; none is asked for behind a fault of ours."""
        if parsed.failures:
            return (malformed_reply(parsed.failures),)
        environment = self._start.environment
        if environment is None:
            return ()
        outcomes: list[ToolOutcome] = []
        for call in parsed.calls:
            outcomes.append(_outcome(environment, call))
            if outcomes[-1].kind is OutcomeKind.HARNESS_FAULT:
                self._invalidate(outcomes[-1].text)
                break
        return tuple(outcomes)

    def _snapshot(self) -> Snapshot | None:
        """None without a world, and of one that has broken."""
        if self._start.environment is None or self.end is EndReason.HARNESS_FAULT:
            return None
        return self._start.environment.snapshot()

    def _go_on(self, finish: FinishReason, outcomes: Sequence[ToolOutcome]) -> None:
        if finish is FinishReason.LENGTH:
            self.end = EndReason.LENGTH
        elif self._horizon is Horizon.CALL:
            self.end = EndReason.HORIZON
        elif not outcomes:
            self._answered(finish)
        elif len(self._turns) - self._user_turn_began >= self._max_turns:
            self.end = EndReason.MAX_TURNS
        else:
            self._observe(self._chat.reply(finish, [outcome.text for outcome in outcomes]))

    def _answered(self, finish: FinishReason) -> None:
        """The policy spoke in words: its turn is over, and perhaps the user goes on."""
        if self._horizon is Horizon.TURN or not self._followups:
            self.end = EndReason.ANSWERED
            return
        if self._start.environment is not None:
            self._start.environment.next_turn()
        self._user_turn_began = len(self._turns)
        self._observe(self._chat.user(finish, self._followups.pop(0)))

    def _observe(self, ids: Sequence[int]) -> None:
        if len(self._transcript.ids) + len(ids) > self._room:
            self.end = EndReason.CONTEXT
        else:
            self._transcript.extend_observed(ids)

    def _verdict(self) -> Verdict | None:
        """What the world says; a decision point is judged by its target, and the world is not asked."""
        if self._start.environment is None or self.end is EndReason.HARNESS_FAULT or self._horizon is Horizon.CALL:
            return None
        with self._masking_faults():
            return self._start.environment.score()
        return None

    def trajectory(self) -> Trajectory:
        """The record; the world is asked for its judgement now.

        Raises:
            ValueError: the dialogue still goes on.
        """
        if self.end is None:
            raise ValueError(
                f"task {self._start.task.id}: the dialogue still goes on; advance it until it has no context"
            )
        verdict = self._verdict()
        return Trajectory(
            task=self._start.task,
            prompt=len(self._start.transcript.ids),
            ids=tuple(self._transcript.ids),
            sampled=tuple(self._transcript.sampled),
            logprobs=tuple(self._transcript.logprobs),
            given=self._start.messages,
            turns=tuple(self._turns),
            snapshots=tuple(self._snapshots),
            end=self.end,
            verdict=verdict,
            fault=self._fault,
        )


def _outcome(environment: Environment, call: ToolCall) -> ToolOutcome:
    """What a call gave, a fault of the world included, so that the trace shows which call it was."""
    try:
        return environment.execute(call)
    except EnvironmentFault as fault:
        return ToolOutcome(kind=OutcomeKind.HARNESS_FAULT, text=str(fault))
