"""What a run trains on: the user's file, or tasks synthesised over executable worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from fission_grpo.environments.base import Environments
from fission_grpo.environments.shipped import environment_for
from fission_grpo.errors import ConfigError
from fission_grpo.settings import Settings
from fission_grpo.tasks.dialogue import continuations, decision_points, premature_calls
from fission_grpo.tasks.jsonl import read_tasks
from fission_grpo.tasks.synthesis.api_sets import API_SETS, KNOWN_APIS, expand_sets, set_of
from fission_grpo.tasks.synthesis.families import SEEN_APIS
from fission_grpo.tasks.synthesis.generator import Mixture, Split, synthesise
from fission_grpo.types import Task

SYNTHETIC = "synthetic"
"""In place of a file: tasks drawn afresh."""
GIVEN = "given"
"""In place of a file: the tasks that a program gave, as its run folder keeps them. It does not name the folder, so that
a run can be moved."""

_DEFAULT = Mixture()


class SyntheticSettings(Settings):
    """Which tasks are drawn; the evaluation draws its held-out ones with the same mixture."""

    seed: int = 0
    """Names the stream of worlds; apart from the seed of the run, so that runs can share their tasks."""
    count: int = Field(default=1000, ge=1)
    """Tasks before `decision_positions` and `continuations` add to them."""
    apis: tuple[str, ...] = SEEN_APIS
    """What to draw from: official classes of BFCL, or worlds of our office. `bfcl` and `office` stand for those that
    each set draws from unless told otherwise; the two sets cannot be mixed."""
    tools: tuple[int, int] = (6, 8)
    """Fewest and most tools on offer."""
    calls: tuple[float, ...] = _DEFAULT.calls
    """Shares of tasks that take one, two, three to four, and five gold calls; those at the end may be left out."""
    two_parts: tuple[float, float] = _DEFAULT.two_parts
    """Of the tasks with two, and with more gold calls: share of two requests in one message."""
    two_turns: float = _DEFAULT.two_turns
    """Share of tasks with two user messages."""
    two_apis: float = _DEFAULT.two_apis
    """Of the tasks with two requests: share that goes to two APIs."""
    unmet: float = _DEFAULT.unmet
    """Share of the setups (a login, a folder, a running engine) that the world lacks at first."""
    two_unmet: float = _DEFAULT.two_unmet
    """Of the tasks with three to four gold calls: share with two requests and a world that lacks two setups or more;
    those with five are drawn so."""
    lookalikes: float = _DEFAULT.lookalikes
    """Share of tasks whose spare tools on offer are those that look most like the needed ones, rather than any."""
    decision_positions: bool = False
    """Also start from every later position of the gold dialogue, those where words are due included: the paper's
    decision points."""
    continuations: bool = False
    """Also start behind an error and its fix, where the next step is due; ours."""

    @field_validator("apis")
    @classmethod
    def _known(cls, apis: tuple[str, ...]) -> tuple[str, ...]:
        chosen = expand_sets(apis)
        unknown = [api for api in chosen if api not in KNOWN_APIS]
        if unknown or not chosen:
            known = ", ".join([*KNOWN_APIS, *API_SETS])
            raise ValueError(f"unknown API {', '.join(unknown) or '(none)'}; expected some of {known}")
        try:
            set_of(chosen)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return chosen

    @model_validator(mode="after")
    def _shares_are_shares(self) -> SyntheticSettings:
        if self.tools[0] > self.tools[1] or self.tools[0] < 1:
            raise ValueError(f"tools must be the fewest and the most, at least 1, got {self.tools}")
        _ = self.mixture  # says itself what is wrong with it
        return self

    @property
    def mixture(self) -> Mixture:
        """The shares as `synthesise` wants them."""
        return Mixture(
            calls=self.calls,
            two_parts=self.two_parts,
            two_turns=self.two_turns,
            two_apis=self.two_apis,
            unmet=self.unmet,
            two_unmet=self.two_unmet,
            lookalikes=self.lookalikes,
        )


def training_set(
    data: str, synthetic: SyntheticSettings, *, environments: Environments, given: Path | None = None
) -> list[Task]:
    """The tasks of a run, in order.

    Args:
        data: a JSONL file, `SYNTHETIC` or `GIVEN`.
        synthetic: which tasks to draw; plays no part with a file.
        environments: where the gold calls of a file are executed.
        given: the file that `GIVEN` stands for; none where no program can have given tasks.

    Raises:
        DataError: the file has problems; all of them are listed.
        ConfigError: the drawing cannot be done; or no tasks were given.
    """
    if data == SYNTHETIC:
        return list(_drawn(synthetic))
    if data != GIVEN:
        return read_tasks(Path(data).expanduser(), environments=environments)
    if given is None or not given.is_file():
        missing = "here are none" if given is None else f"{given} is not there"
        raise ConfigError(
            f"data={GIVEN} stands for the tasks that a program gave to this run, and {missing}; "
            "give them again (tasks=...), or set data to a file of tasks"
        )
    return read_tasks(given, environments=environments)


def short_enough(tasks: Sequence[Task], most: int | None, *, length: Callable[[Task], int]) -> list[Task]:
    """The tasks whose prompts have so many tokens at most; None takes all.

    Args:
        length: tokens of a task's prompt.
    Raises:
        ConfigError: none is left.
    """
    if most is None:
        return list(tasks)
    lengths = [length(task) for task in tasks]
    kept = [task for task, tokens in zip(tasks, lengths, strict=True) if tokens <= most]
    if tasks and not kept:
        raise ConfigError(
            f"rollouts.max_prompt={most} leaves out all {len(tasks)} tasks: the shortest prompt has {min(lengths)} "
            "tokens; raise it, or offer fewer tools"
        )
    return kept


@lru_cache(maxsize=2)
def _drawn(synthetic: SyntheticSettings) -> tuple[Task, ...]:
    """Once for each process: the arms and seeds that it trains share their tasks."""
    drawn = synthesise(
        synthetic.seed,
        synthetic.count,
        apis=synthetic.apis,
        split=Split.TRAIN,
        mixture=synthetic.mixture,
        tools=synthetic.tools,
    )
    later = _later_positions(drawn) if synthetic.decision_positions else ()
    behind = _behind_fixes(drawn) if synthetic.continuations else ()
    return (*drawn, *later, *behind)


def _later_positions(tasks: Sequence[Task]) -> Iterator[Task]:
    """Every later decision position of the gold dialogues; the first one is the task itself.

    Where words are due belongs to them: a policy that is only ever asked for calls learns never to stop calling.
    """
    for task in tasks:
        yield from decision_points(task)[1:]


def _behind_fixes(tasks: Sequence[Task]) -> Iterator[Task]:
    """Continuations of every natural premature call."""
    for task in tasks:
        environment = environment_for(task)
        for position, call in premature_calls(task, environment=environment):
            yield from continuations(task, call, position, environment=environment)
