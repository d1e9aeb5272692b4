"""Teach a policy to use your own tools, and measure it before and after: `python examples/own_tools.py`.

A help desk. Nobody can see whether the user is logged in already: only an error says it, both ways, so that half of all
episodes begin with one even if all else is right. `nano` was never shown an error and gets over half of them, and
over nearly all after ten updates. (It knows the names of a few tools and no others, and these are among them. A model
that speaks can use whatever yours are called.) Half a minute on two CPU cores; what it leaves is in runs/own-tools.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from fission_grpo import ToolError, evaluate, recipe, train


class HelpDesk:
    """Public methods with types and a docstring are tools; `reset` begins a task; `score` says how it ended."""

    def reset(self, user: str, password: str, logged_in: bool, goal: list[Any]) -> None:
        self.account, self.logged_in = (user, password), logged_in
        self.tickets: list[list[Any]] = []
        self.goal = goal

    def ticket_login(self, username: str, password: str) -> str:
        """Log in to the ticket system.

        Args:
            username: who logs in
            password: the user's password
        """
        if self.logged_in:
            raise ToolError("you are logged in already")
        if (username, password) != self.account:
            raise ToolError("wrong username or password")
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
            raise ToolError("nobody is logged in; log in first")
        if not 1 <= priority <= 5:
            raise ToolError(f"priority {priority} is not between 1 and 5")
        self.tickets.append([title, description, priority])
        return f"ticket {len(self.tickets)} was created"

    def close_ticket(self, ticket_id: int) -> str:
        """Close a ticket.

        Args:
            ticket_id: number of the ticket
        """
        if not 1 <= ticket_id <= len(self.tickets):
            raise ToolError(f"there is no ticket {ticket_id}")
        del self.tickets[ticket_id - 1]
        return "closed"

    def score(self) -> float:
        return float(self.tickets == [self.goal])  # 1 is a success


WORDS = ("copper", "lantern", "garden", "island", "pocket", "granite", "mirror", "quartz", "meadow", "cobalt", "paddle")


def make_tasks(name: str, count: int) -> list[dict[str, Any]]:
    """What somebody says, and the world it is said in; drawn anew for each name."""
    draw = random.Random(name)
    made = []
    for number in range(count):
        title, description = draw.sample(WORDS, 2)
        priority, user, password = draw.randint(1, 5), f"nadia{draw.randint(10, 99)}", f"pebble{draw.randint(10, 99)}"
        asked = f'Please create the ticket "{title}" saying "{description}" with priority {priority}.'
        login = f'Log in as "{user}" with password "{password}" if needed.'
        account = {"user": user, "password": password, "logged_in": draw.random() < 0.5}
        made.append(
            {
                "id": f"{name}-{number}",
                "messages": [{"role": "user", "content": f"{asked} {login}"}],
                "world": {
                    "environment": "helpdesk",
                    "config": {**account, "goal": [title, description, priority]},
                },
            }
        )
    return made


def main() -> None:
    """Measure, train, measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=10, help="updates")
    options.add_argument("--output", default="runs/own-tools", help="the run folder")
    asked = options.parse_args()

    environments = {"helpdesk": HelpDesk}
    held_out = make_tasks("held-out", 100)
    settings = recipe("nano", {"trainer.steps": asked.steps, "output": asked.output})
    before = evaluate("nano", tasks=held_out, environments=environments, settings=settings)
    run = train(settings, tasks=make_tasks("training", 200), environments=environments)
    after = evaluate(run, tasks=held_out)
    print(f"before training\n{before}\nafter {run.step} updates\n{after}\n{run}")


if __name__ == "__main__":
    main()
