"""What the whole-step parts of `engines.py` train on: long prompts without tools, and a help desk with some."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from shapes import build_model

from fission_grpo.chat.format import ChatFormat
from fission_grpo.models.catalog import load_chat, load_weights
from fission_grpo.seeds import in_turn

SEED = 0
TICKET_WORDS = ("copper", "lantern", "garden", "island", "pocket", "granite", "mirror", "quartz", "meadow", "cobalt")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What every side of a whole-step part gets."""

    build: Callable[[], Any]
    """The same weights, whenever it is called."""
    chat: ChatFormat
    rows: Sequence[dict[str, Any]]
    """Of a data set, `queries` for each step."""
    environment: type[Any] | None
    steps: int
    queries: int
    """Tasks of a step."""
    group: int
    message_tokens: int
    messages: int
    """Most of a trajectory. Ours limits the tokens of each; TRL's `max_completion_length` those of all of them, tool
    results included, and samples so many for every message while any row of the batch goes on."""
    checkpointing: bool

    @property
    def rows_in_turn(self) -> list[dict[str, Any]]:
        """In the order in which our trainer takes them, for a data set that is not shuffled."""
        count = len(self.rows)
        return [self.rows[in_turn(place, count, seed=SEED, purpose="order")] for place in range(count)]


def mean_id(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The mean token: a reward without sense, in which the answers of a group differ."""
    return [sum(ids) / len(ids) / 1000 for ids in completion_ids]


class HelpDesk:
    """TRL's kind of environment. Only an error says whether somebody is logged in; every row is a task of its own."""

    def reset(self, number: int, **row: Any) -> str:
        draw = random.Random(number)
        title, description = draw.sample(TICKET_WORDS, 2)
        self.user, self.password = f"nadia{draw.randint(10, 99)}", f"pebble{draw.randint(10, 99)}"
        self.goal, self.tickets = (title, description, draw.randint(1, 5)), []
        self.logged_in = draw.random() < 0.5
        return (
            f'Please create the ticket "{title}" saying "{description}" with priority {self.goal[2]}. '
            f'Log in as "{self.user}" with password "{self.password}" if needed.'
        )

    def ticket_login(self, username: str, password: str) -> str:
        """Log in to the ticket system.

        Args:
            username: who logs in
            password: the user's password
        """
        if self.logged_in:
            raise ValueError("you are logged in already")
        if (username, password) != (self.user, self.password):
            raise ValueError("wrong username or password")
        self.logged_in = True
        return "logged in"

    def create_ticket(self, title: str, description: str, priority: int) -> str:
        """Create a ticket.

        Args:
            title: what it is called
            description: what it is about
            priority: from 1 to 5
        """
        if not self.logged_in:
            raise ValueError("nobody is logged in; log in first")
        self.tickets.append((title, description, priority))
        return f"ticket {len(self.tickets)} was created"

    def get_reward(self) -> float:
        return float(self.tickets == [self.goal])


def help_desk(options: argparse.Namespace) -> StepWork:
    """`nano` at the help desk: several messages, tools, and errors that it can recover from."""
    count = options.tool_tasks * options.tool_steps
    return StepWork(
        build=lambda: load_weights("nano"),
        chat=load_chat("nano"),
        rows=[{"prompt": [{"role": "user", "content": ""}], "number": number} for number in range(count)],
        environment=HelpDesk,
        steps=options.tool_steps,
        queries=options.tool_tasks,
        group=options.group,
        message_tokens=64,
        messages=4,
        checkpointing=options.checkpointing,
    )


def long_prompts(options: argparse.Namespace) -> StepWork:
    """A random model reads long prompts and says as many tokens each time: its LM head has a bias that rules the end
    of a message out."""
    chat = load_chat("nano")
    count = options.tasks * options.steps
    return StepWork(
        build=lambda: never_ending(build_model(options), chat.eos_id),
        chat=chat,
        rows=[{"prompt": prompt_of(options.prompt, chat, seed=number)} for number in range(count)],
        environment=None,
        steps=options.steps,
        queries=options.tasks,
        group=options.group,
        message_tokens=options.completion,
        messages=1,
        checkpointing=options.checkpointing,
    )


def never_ending(model: Any, eos_id: int) -> Any:
    head = model.get_output_embeddings()
    bias = torch.zeros(head.out_features)
    bias[eos_id] = -1e4
    head.bias = torch.nn.Parameter(bias, requires_grad=False)
    return model


def prompt_of(tokens: int, chat: ChatFormat, *, seed: int) -> list[dict[str, str]]:
    """A user's message of numbers: so many tokens with what the template writes around it, or one or two more."""
    draw = random.Random(seed)
    numbers: list[str] = []

    def message() -> list[dict[str, str]]:
        return [{"role": "user", "content": " ".join(numbers)}]

    while (missing := tokens - len(chat.prompt(message(), ()))) > 0:
        numbers += [str(draw.randint(10, 99)) for _ in range(max(missing // 3, 1))]
    return message()
