"""Unlimited tasks over executable worlds: drawn, executed, and kept only when they prove themselves.

The worlds are the official multi-turn classes, or those of our own office. A task is one or two requests in one or two
user turns. Its gold chain must replay without an error and satisfy the verdict of its world, and must stop doing so
when any one call is left out. Half of the requests that need something (a login, a folder, a running engine) meet a
world where it is missing, and nothing in the prompt tells. A harder mixture asks for longer chains, for worlds that
lack two things at once, and for tools on offer that look right and are wrong.

Splits never share a text, a world, or a gold chain of three or more calls: texts and chains belong to one split by
their hash, worlds come from disjoint seed streams, and held-out texts use wordings that no training text uses. No task
shares anything of that kind with the official test entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from random import Random
from typing import Any

from fission_grpo.environments.shipped import SHIPPED
from fission_grpo.errors import ConfigError
from fission_grpo.tasks.gold_chain import canonical, chain_of, proves_itself, texts_of
from fission_grpo.tasks.synthesis.api_sets import ApiSet, set_of, tools_by_name
from fission_grpo.tasks.synthesis.families import SEEN_APIS
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RejectedDraw,
    RequestGenerator,
    literal,
)
from fission_grpo.tasks.synthesis.lookalikes import lookalikes
from fission_grpo.tasks.synthesis.overlap import SHORTEST_CHAIN, official_index
from fission_grpo.types import Task, Tool, ToolCall, World

OPENINGS = ("", "please ", "now ", "I want you to do this: ", "here is what I need: ", "could you do this: ")
JOINERS = ("{first}, then {second}", "{first}. After that, {second}", "first {first}, and then {second}")
FOLLOWUP_OPENINGS = ("", "now ", "next, ", "then ", "also ")

LENGTHS = (range(1, 2), range(2, 3), range(3, 5), range(5, 6))
"""What the shares of `Mixture.calls` stand for."""

TRIES = 150
"""Rejected draws after which the shape of a task gives way to a wider one."""


class Split(StrEnum):
    """Whom a task is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELDOUT = "heldout"


_CHAINS: Mapping[Split, range] = {
    Split.TRAIN: range(0, 5),
    Split.VALIDATION: range(5, 7),
    Split.HELDOUT: range(7, 10),
}
"""Tenths of the hash space: which split may use a gold chain of three or more calls."""

_TEXTS: Mapping[Split, range] = {
    Split.TRAIN: range(0, 7),
    Split.VALIDATION: range(7, 10),
    Split.HELDOUT: range(0, 10),
}
"""The same for texts; held-out texts are told apart by their wordings already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What share of the tasks has what."""

    calls: tuple[float, ...] = (0.45, 0.35, 0.20)
    """Tasks whose longest turn takes one, two, three to four, and five gold calls; adds up to one. Those at the end may
    be left out."""
    two_parts: tuple[float, float] = (0.3, 0.6)
    """Of the single-turn tasks with two, and with more gold calls: two requests in one user message."""
    two_turns: float = 0.0
    """Two user messages, one request each."""
    two_apis: float = 0.3
    """Of the tasks with two requests: those that go to two different APIs, where two are allowed."""
    unmet: float = 0.5
    """Of the setups (a login, a folder, a running engine): those that the initial world lacks."""
    two_unmet: float = 0.0
    """Of the tasks with three to four gold calls: those with two requests and a world that lacks at least two of the
    setups, drawn among all that the requests have. In the others it lacks as many as `unmet` makes it. Those with five
    calls are drawn as such tasks, because two requests and no more than one repair hardly ever take five. Where the
    APIs have no two setups, or too many draws were in vain, a task gets shorter or lacks less."""
    lookalikes: float = 0.0
    """Tasks whose spare tools on offer are those that look most like the needed ones, rather than any; see
    `lookalikes.py`."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.calls) <= len(LENGTHS):
            raise ConfigError(f"{self}: `calls` has 1 to {len(LENGTHS)} shares, got {len(self.calls)}")
        others = (*self.two_parts, self.two_turns, self.two_apis, self.unmet, self.two_unmet, self.lookalikes)
        shares = (*self.calls, *others)
        if not all(0 <= share <= 1 for share in shares) or abs(sum(self.calls) - 1) > 1e-6:
            raise ConfigError(f"{self}: shares must lie in [0, 1], and those of `calls` add up to 1")


def synthesise(
    seed: int,
    count: int,
    *,
    apis: Sequence[str] = SEEN_APIS,
    split: Split | str = Split.TRAIN,
    mixture: Mixture | None = None,
    tools: tuple[int, int] = (6, 8),
) -> list[Task]:
    """`count` different tasks, a function of the arguments alone.

    Args:
        seed: with the split, names the stream of worlds.
        count: how many tasks.
        apis: APIs of one set to draw from; held-out ones only in the held-out split.
        split: whose texts, worlds and chains these are.
        mixture: shares of long and multi-turn tasks.
        tools: fewest and most tools on offer, more only where a task needs more: the needed ones, whatever its
            repairs may take, and others of the same APIs.

    Raises:
        ConfigError: unknown or held-out API, or the request cannot be met (too many tasks of too few kinds).
    """
    split, chosen = Split(split), set_of(apis)
    _check_heldout(apis, chosen, split)
    generator = _TaskGenerator(
        seed=seed, split=split, api_set=chosen, apis=tuple(apis), mixture=mixture or Mixture(), tools=tools
    )
    seen: set[str] = set()
    tasks: list[Task] = []
    for index in range(count):
        task = generator.task(index, seen)
        seen.add(_text_of(task))
        tasks.append(task)
    return tasks


def _check_heldout(apis: Sequence[str], api_set: ApiSet, split: Split) -> None:
    leaked = [name for name in apis if name in api_set.heldout]
    if leaked and split is not Split.HELDOUT:
        raise ConfigError(f"{', '.join(leaked)} is held out: it may only be drawn for the split 'heldout'")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """The shape of one task, decided before anything is drawn, so that rejections cannot shift the mixture."""

    lengths: range
    """Gold calls that its longest turn may take."""
    turns: int
    requests: int
    unmet: int = 0
    """Fewest setups that its world lacks."""
    lookalikes: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    """What one generator asks for in one task."""

    api: str
    generator: RequestGenerator
    draw: Draw
    wording: int
    clause: str


@dataclass(frozen=True, slots=True)
class _Preparation:
    """What it takes to get the world ready for one request: its setups, arranged."""

    fixes: tuple[ToolCall, ...]
    notes: tuple[str, ...]
    """What the user says about it, whether or not it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskGenerator:
    """Draws the tasks of one `synthesise`."""

    seed: int
    split: Split
    api_set: ApiSet
    apis: tuple[str, ...]
    """Those of the set that are drawn from."""
    mixture: Mixture
    tools: tuple[int, int]

    def task(self, index: int, seen: set[str]) -> Task:
        """The `index`-th task: the first draw that proves itself and is nobody else's."""
        environment = SHIPPED[self.api_set.environment]()
        shapes = self._shapes(Random(f"{self.split}/{self.seed}/{index}"))
        for attempt, shape in enumerate(shape for shape in shapes for _ in range(TRIES)):
            rng = Random(f"{self.split}/{self.seed}/{index}/{attempt}")
            try:
                task = self._draw(rng, shape, f"{self.split}-{self.seed}-{index:05d}")
            except RejectedDraw:
                continue
            if _text_of(task) not in seen and self._is_ours(task) and proves_itself(environment, task):
                return task
        raise ConfigError(
            f"no new task for number {index} of split {self.split} over {', '.join(self.apis)}: "
            "ask for fewer tasks or more APIs"
        )

    def _is_ours(self, task: Task) -> bool:
        chain = chain_of(task)
        if len(chain) >= SHORTEST_CHAIN and _bucket(canonical(chain)) not in _CHAINS[self.split]:
            return False
        return _bucket(_text_of(task)) in _TEXTS[self.split] and not official_index().offences(task)

    def _shapes(self, rng: Random) -> Iterator[_Shape]:
        """What to try: first what the mixture says, then what comes near it where an API cannot give that."""
        (size,) = rng.choices(range(len(self.mixture.calls)), self.mixture.calls)
        two_turns = rng.random() < self.mixture.two_turns
        two_parts = rng.random() < (0.0, *self.mixture.two_parts)[min(size, 2)]
        two_unmet = size > 2 or (rng.random() < self.mixture.two_unmet and size == 2)
        two_unmet = two_unmet and _most_setups(self._apis(self.apis)) >= 2
        first = _Shape(
            lengths=LENGTHS[size],
            turns=1 + two_turns,
            requests=2 if two_turns or two_parts or two_unmet else 1,
            unmet=2 * two_unmet,
            lookalikes=rng.random() < self.mixture.lookalikes,
        )
        yield first
        yield replace(first, requests=2)
        if size > 2 or two_unmet:  # a long chain rather gets shorter, and then lacks less, than that it gets short
            long = replace(first, requests=2, lengths=range(3, first.lengths.stop))
            yield long
            yield replace(long, unmet=0)
        yield replace(first, requests=2, lengths=range(1, max(5, first.lengths.stop)), unmet=0)

    def _draw(self, rng: Random, shape: _Shape, name: str) -> Task:
        states = _initial_states(rng, self._apis(self._choose_apis(rng, shape.requests)))
        requests = self._requests(rng, states, shape.requests)
        turns = [requests] if shape.turns == 1 else [[request] for request in requests]
        return self._assemble(rng, shape, name, states, turns)

    def _apis(self, names: Sequence[str]) -> list[Api]:
        return [self.api_set.apis[name] for name in names]

    def _choose_apis(self, rng: Random, count: int) -> list[str]:
        apart = count == 2 and len(self.apis) > 1 and rng.random() < self.mixture.two_apis
        return rng.sample(self.apis, 2) if apart else [rng.choice(self.apis)] * count

    def _requests(self, rng: Random, states: Mapping[str, InitialState], count: int) -> list[_Request]:
        requests: list[_Request] = []
        names = list(states) if len(states) == count else list(states) * count
        topics: set[str] = set()
        for api in names:
            free = [f for f in self.api_set.apis[api].generators if (f.topic or f.name) not in topics]
            (generator,) = rng.choices(free, [f.weight for f in free])
            topics.add(generator.topic or generator.name)
            draw = generator.draw(states[api])
            wording, template = generator.wordings.draw(rng, self._kinds(api))
            requests.append(_Request(api, generator, draw, wording, _fill(template, draw)))
        return requests

    def _kinds(self, api: str) -> tuple[str, ...]:
        if api in self.api_set.heldout:
            return ("train", "heldout")
        return ("heldout",) if self.split is Split.HELDOUT else ("train",)

    def _assemble(
        self, rng: Random, shape: _Shape, name: str, states: Mapping[str, InitialState], turns: list[list[_Request]]
    ) -> Task:
        setups = dict.fromkeys(setup.name for turn in turns for request in turn for setup in request.generator.setups)
        if len(setups) < shape.unmet:
            raise RejectedDraw
        lacking = set(rng.sample(list(setups), shape.unmet))
        arranged: set[str] = set()
        preparations = [[self._prepare(rng, states[r.api], r, arranged, lacking) for r in turn] for turn in turns]
        gold = tuple(_gold(turn, prepared) for turn, prepared in zip(turns, preparations, strict=True))
        if max(map(len, gold)) not in shape.lengths:
            raise RejectedDraw
        first, *later = (
            _text(rng, i, turn, prepared) for i, (turn, prepared) in enumerate(zip(turns, preparations, strict=True))
        )
        requests = [request for turn in turns for request in turn]
        return Task(
            id=name,
            messages=({"role": "user", "content": first},),
            tools=_offer(rng, requests, self.tools, misleading=shape.lookalikes),
            target=gold[0][:1],
            world=World(
                environment=self.api_set.environment,
                config={"classes": list(states), "initial": {api: initial.state for api, initial in states.items()}},
            ),
            gold=gold,
            followups=tuple(later),
            meta=self._meta(
                requests,
                [fix for prepared in preparations for preparation in prepared for fix in preparation.fixes],
                gold,
            ),
        )

    def _prepare(
        self, rng: Random, initial: InitialState, request: _Request, arranged: set[str], lacking: set[str]
    ) -> _Preparation:
        """Arrange the setups that no earlier request arranged: unmet if they are to be lacking, others by chance."""
        fixes: list[ToolCall] = []
        notes: list[str] = []
        for setup in request.generator.setups:
            if setup.name in arranged:
                continue
            arranged.add(setup.name)
            unmet = rng.random() < self.mixture.unmet or setup.name in lacking
            fix = setup.arrange(initial, request.draw, unmet)
            _, template = setup.notes.draw(rng, self._kinds(request.api))
            fixes += fix.calls
            notes.append(_fill(template, fix))
        return _Preparation(tuple(fixes), tuple(notes))

    def _meta(
        self, requests: Sequence[_Request], fixes: Sequence[ToolCall], gold: Sequence[Sequence[ToolCall]]
    ) -> dict[str, Any]:
        apis = sorted({request.api for request in requests})
        return {
            "apis": apis,
            "family": "+".join(request.generator.name for request in requests),
            "split": str(self.split),
            "slice": "heldout_api" if any(api in self.api_set.heldout for api in apis) else "seen_api",
            "wording": requests[0].wording,
            "hidden": bool(fixes),
            "gold_calls": sum(len(turn) for turn in gold),
        }


def _initial_states(rng: Random, apis: Sequence[Api]) -> dict[str, InitialState]:
    different = {api.name: api for api in apis}
    return {name: InitialState(rng=rng, state=api.initial_state(rng)) for name, api in different.items()}


def _fill(template: str, draw: Draw) -> str:
    return template.format(**{key: literal(value) for key, value in draw.slots.items()})


def _gold(turn: Sequence[_Request], preparations: Sequence[_Preparation]) -> tuple[ToolCall, ...]:
    pairs = zip(turn, preparations, strict=True)
    return tuple(call for request, preparation in pairs for call in (*preparation.fixes, *request.draw.calls))


def _text(rng: Random, turn: int, requests: Sequence[_Request], preparations: Sequence[_Preparation]) -> str:
    """One user message: the request with its opening, and what else the user says before or after it."""
    clauses = [request.clause for request in requests]
    request = clauses[0] if len(clauses) == 1 else rng.choice(JOINERS).format(first=clauses[0], second=clauses[1])
    asked = [rng.choice(FOLLOWUP_OPENINGS if turn else OPENINGS) + request]
    notes = [note for preparation in preparations for note in preparation.notes]
    sentences = [*notes, *asked] if rng.random() < 0.3 else [*asked, *notes]
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)


def _most_setups(apis: Sequence[Api]) -> int:
    """Setups that two requests to some of these APIs can have at most."""
    return len({setup.name for api in apis for generator in api.generators for setup in generator.setups})


def _offer(rng: Random, requests: Sequence[_Request], size: tuple[int, int], *, misleading: bool) -> tuple[Tool, ...]:
    """The needed tools, those that repairs may take, and others of the same APIs, in random order.

    The others are seeded ones, or those that look most like the needed ones.
    """
    known = {name: tool for request in requests for name, tool in tools_by_name(request.api).items()}
    needed = {call.name for request in requests for call in request.draw.calls}
    needed |= {fixer for request in requests for setup in request.generator.setups for fixer in setup.fixers}
    more = max(0, rng.randint(*size) - len(needed))
    if misleading:
        spare = list(islice(_misleading(requests, needed), more))
    else:
        others = sorted(set(known) - needed)
        spare = rng.sample(others, min(more, len(others)))
    names = sorted(needed) + spare
    rng.shuffle(names)
    return tuple(known[name] for name in names)


def _misleading(requests: Sequence[_Request], needed: set[str]) -> Iterator[str]:
    """Wrong tools that look like the needed ones; those like a request's own tools before those like its repairs."""
    wrong = {
        api: [tool for name, tool in tools_by_name(api).items() if name not in needed]
        for api in dict.fromkeys(request.api for request in requests)
    }
    calls = [(request.api, call.name, request.clause) for request in requests for call in request.draw.calls]
    fixers = [
        (request.api, fixer, "") for request in requests for setup in request.generator.setups for fixer in setup.fixers
    ]
    return lookalikes(
        (tools_by_name(api)[name], said, wrong[api]) for api, name, said in dict.fromkeys([*calls, *fixers])
    )


def _text_of(task: Task) -> str:
    return "\n".join(texts_of(task))


def _bucket(key: str) -> int:
    return hashlib.sha256(key.encode()).digest()[0] % 10
