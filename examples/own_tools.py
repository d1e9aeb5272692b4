"""Teach a policy to use your own tools, and measure it before and after: `python examples/own_tools.py`.

A help desk of three tools. Half of the time nobody is logged in, which only an error says; `nano` was never shown an
error, so it gives up. (`nano` knows the names of a few tools and no others: these are among them. A model that speaks
can use whatever yours are called.) The whole takes half a minute on two CPU cores; what it leaves is in runs/own-tools.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from fission_grpo import ToolError, evaluate, recipe, train


class HelpDesk:
    """Public methods with types and a docstring are tools; `reset` begins a task; `score` says how it ended."""

    def reset(self, user: str, password: str, logged_in: bool, tickets: list[int], goal: list[int]) -> None:
        self.account, self.logged_in = (user, password), logged_in
        self.tickets, self.goal = set(tickets), set(goal)

    def ticket_login(self, username: str, password: str) -> str:
        """Log in to the ticket system.

        Args:
            username: who logs in
            password: the user's password
        """
        if (username, password) != self.account:
            raise ToolError("wrong username or password")
        self.logged_in = True
        return "logged in"

    def get_ticket(self, ticket_id: int) -> str:
        """Say how a ticket stands.

        Args:
            ticket_id: number of the ticket
        """
        return f"ticket {ticket_id} is {'open' if ticket_id in self.tickets else 'unknown'}"

    def close_ticket(self, ticket_id: int) -> str:
        """Close a ticket.

        Args:
            ticket_id: number of the ticket
        """
        if not self.logged_in:
            raise ToolError("nobody is logged in; log in first")
        if ticket_id not in self.tickets:
            raise ToolError(f"there is no open ticket {ticket_id}")
        self.tickets.remove(ticket_id)
        return "closed"

    def score(self) -> float:
        return float(self.tickets == self.goal)  # 1 is a success


def make_tasks(name: str, count: int) -> list[dict[str, Any]]:
    """What somebody says, and the world it is said in; drawn anew for each name."""
    draw = random.Random(name)
    made = []
    for number in range(count):
        tickets = draw.sample(range(1000, 10_000), 3)
        user, password = f"{draw.choice(('nadia', 'hugo', 'carla'))}{draw.randrange(10, 99)}", f"lantern{number}"
        asked = f'Please close ticket {tickets[0]}. Log in as "{user}" with password "{password}" if needed.'
        config = {"user": user, "password": password, "logged_in": draw.random() < 0.5, "tickets": tickets}
        made.append(
            {
                "id": f"{name}-{number}",
                "messages": [{"role": "user", "content": asked}],
                "world": {"environment": "helpdesk", "config": {**config, "goal": tickets[1:]}},
            }
        )
    return made


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=20, help="updates")
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
