"""Frozen values that cross stages: task -> rollout -> failures -> fission -> update -> report.

Nothing here computes; everything here can be written to `traces.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""One OpenAI chat message: `role`, `content`, and `tool_calls` (assistant) or `tool_call_id` (tool)."""
Tool: TypeAlias = Mapping[str, Any]
"""One OpenAI tool: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call the policy asks for: a name and JSON arguments, never source text."""

    name: str
    arguments: Mapping[str, Any]


class OutcomeKind(StrEnum):
    """How the execution of one call ended. Only the first four are the model's doing."""

    SUCCESS = "success"
    ERROR = "error"
    """The tool said no, in text the model sees."""
    SOFT_FAILURE = "soft_failure"
    """An ordinary answer that means no (`{"login_status": false}`). Never counted as an error in metrics."""
    TIMEOUT = "timeout"
    """The call hit our time or size cap (class E8); the model sees a short error text."""
    HARNESS_FAULT = "harness_fault"
    """Our machinery failed in the middle of a call; the text says how. Written by `rollout` where an environment raises
    `EnvironmentFault`; one that is returned means the same. Recorded, counted, masked, never shown to a model."""


class ErrorClass(StrEnum):
    """What went wrong with a call, by the taxonomy of `docs/environments.md`."""

    FORMAT = "E0"
    """Undecodable call: no JSON, no name, arguments not an object."""
    UNKNOWN_TOOL = "E1"
    ARGUMENT_SCHEMA = "E2"
    """Missing or unexpected argument."""
    ARGUMENT_TYPE = "E3"
    NOT_FOUND = "E4"
    """A well-formed value that names nothing in this world: file, id, symbol, card, user."""
    ILLEGAL_VALUE = "E5"
    """Outside an enumeration, range or date format."""
    PRECONDITION = "E6"
    """The world is not ready: not logged in, doors unlocked, market closed, budget exceeded."""
    CONFLICT = "E7"
    """Exists already, closed already."""
    LIMIT = "E8"
    """Our time or size cap."""
    SOFT = "S"
    SILENT = "W"
    """The call succeeded, and only the verdict knows that it was the wrong one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutcome:
    """What one executed call gave back."""

    kind: OutcomeKind
    text: str
    """Exactly what the model sees as the tool message."""
    error: ErrorClass | None = None
    """None exactly when `kind` is SUCCESS or HARNESS_FAULT."""
    seconds: float = 0.0

    @property
    def is_error(self) -> bool:
        """An explicit error in the sense of every recovery metric: the model was told that the call failed."""
        return self.kind in (OutcomeKind.ERROR, OutcomeKind.TIMEOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where a task lives: enough to rebuild its initial state."""

    environment: str
    """Name of the environment, for instance `bfcl`."""
    config: Mapping[str, Any]
    """Whatever that environment's `reset` needs; for `bfcl`: `{"classes": [...], "initial": {class: state}}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to do, from the policy's point of view: a dialogue so far, tools, and what would be right.

    *Decision point*: `target` holds the gold calls of the next assistant message; no world is needed.
    *Episode*: `world` and `gold` let an executable world judge everything the policy does until it stops.
    A task may be both. A dialogue that is already under way is replayed in the world from `messages`.
    """

    id: str
    messages: tuple[Message, ...]
    """The dialogue so far, ending with a user or tool message."""
    tools: tuple[Tool, ...]
    target: tuple[ToolCall, ...] = ()
    """Gold calls of the next assistant message; empty when the right thing is to answer in words."""
    world: World | None = None
    gold: tuple[tuple[ToolCall, ...], ...] = ()
    """Gold calls per user turn, from the first turn of the dialogue; empty without a world."""
    followups: tuple[str, ...] = ()
    """User messages still to come; `len(gold)` = user messages in `messages` + `len(followups)`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Slices for reports: `apis`, `split`, `wording`, `hidden` (a precondition is unmet), ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What each token is drawn from: the softmax of the logits, tempered, cut to the top k, and renormalised.

    Tokens whose probability equals the k-th largest all stay, so there may be more than k of them. The sampler and the
    scorer of training take the same value (`tree.distribution` computes it for both).
    """

    temperature: float = 1.0
    """The logits are divided by it. 0 is greedy: the likeliest token is taken, top-k has nothing to cut, and the
    log-probability of a token is that of the model's own softmax."""
    top_k: int = 0
    """0 keeps the whole vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A trajectory as the model sees it."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """True on the tokens whose log-probability is wanted; never on the first token."""


class FinishReason(StrEnum):
    """Why the policy stopped sampling."""

    STOP = "stop"
    """It emitted its end-of-turn token."""
    LENGTH = "length"
    """It ran into the token limit; the end-of-turn token was not sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled assistant message, token by token."""

    ids: tuple[int, ...]
    """Sampled tokens, the end-of-turn token included when `finish` is STOP."""
    logprobs: tuple[float, ...]
    """Log-probability of each token, in nats, under the very `Distribution` that it was sampled from: tempered, cut to
    the top k, and renormalised. Training computes the same again."""
    finish: FinishReason


class ParseFailureKind(StrEnum):
    """How an assistant message failed to be a tool call."""

    JSON = "json"
    """The text between the tags is not JSON."""
    NOT_A_CALL = "not_a_call"
    """JSON, but no string `name`."""
    ARGUMENTS = "arguments"
    """`arguments` is not an object."""
    UNCLOSED = "unclosed"
    """Tags that do not pair up: an opening one without a closing one, or the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseFailure:
    """A malformed call: typed, with its place, so that it is never lost as plain text."""

    kind: ParseFailureKind
    start: int
    """Character offset of the block in the assistant text."""
    text: str
    """The offending block."""
    detail: str
    """What was got and what was expected, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedMessage:
    """An assistant text read as calls, prose, and failures."""

    content: str
    """The prose outside tool-call blocks, stripped."""
    calls: tuple[ToolCall, ...]
    failures: tuple[ParseFailure, ...]
    """Not empty: the message is malformed, and none of its calls is executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One assistant message and its replies."""

    completion: Completion
    text: str
    parsed: ParsedMessage
    outcomes: tuple[ToolOutcome, ...]
    """One for each executed call; one FORMAT error for a malformed message; empty for a plain answer."""
    start: int = 0
    """Where its sampled tokens begin in the trajectory's tokens."""

    @property
    def stop(self) -> int:
        """One past its last sampled token."""
        return self.start + len(self.completion.ids)


class EndReason(StrEnum):
    """Why a trajectory ended."""

    ANSWERED = "answered"
    """The policy answered in words: it decided that it is done."""
    HORIZON = "horizon"
    """A decision point: one assistant message was asked for."""
    LENGTH = "length"
    """Sampling hit the token limit inside a message."""
    MAX_TURNS = "max_turns"
    """No more assistant messages were allowed for this user message."""
    CONTEXT = "context"
    """The next prompt would not fit the context window."""
    HARNESS_FAULT = "harness_fault"
    """Our machinery failed: masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The world's own judgement of an episode."""

    ok: bool
    error_type: str = ""
    """The official checker's name for the first thing that is wrong; empty when `ok`."""
    detail: str = ""
    matched: float = 0.0
    """Share of the judged turns that are right, in [0, 1]; 1 when `ok`."""


class GroupKind(StrEnum):
    """Which stage of arXiv:2601.15625 sampled the group."""

    EXPLORATION = "exploration"
    """Stage 1: G trajectories from the task itself."""
    COLLECTION = "collection"
    """The same before the first update, for a pool of contexts alone (`algorithm/offline.py`): never trained on."""
    FISSION = "fission"
    """Stage 3: G' recoveries from one corrective context."""
