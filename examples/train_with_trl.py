"""Fission inside TRL: `python examples/train_with_trl.py` (needs `pip install 'fission-grpo[trl]'`).

What a script for TRL's `GRPOTrainer` and its `environment_factory` looks like, but for one import. A help desk makes up
its tasks by itself; nobody can see whether the user is logged in already, only an error says it, both ways. `nano` was
never shown an error, so half of all first attempts fail; fission practises what comes next. A minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
from trl import GRPOConfig

from fission_grpo.engines.trl import FissionGRPOTrainer as GRPOTrainer  # the one line
from fission_grpo.models.catalog import load_chat, load_weights

WORDS = ("copper", "lantern", "garden", "island", "pocket", "granite", "mirror", "quartz", "meadow", "cobalt", "paddle")


class HelpDesk:
    """As TRL wants it: `reset` says what is asked, other public methods are tools, `get_reward` says how it ended."""

    def reset(self, **row: Any) -> str:
        title, description = random.sample(WORDS, 2)
        self.user, self.password = f"nadia{random.randint(10, 99)}", f"pebble{random.randint(10, 99)}"
        self.goal, self.tickets = (title, description, random.randint(1, 5)), []
        self.logged_in = random.random() < 0.5
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
        return float(self.tickets == [self.goal])  # 1 is a success


def main() -> None:
    """Train, and tell of the first steps and the last ones."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=20, help="updates")
    options.add_argument("--output", default="runs/with-trl", help="TRL's output_dir")
    options.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    asked = options.parse_args()

    trainer = GRPOTrainer(
        model=load_weights("nano"),
        processing_class=load_chat("nano").tokenizer,
        args=GRPOConfig(
            output_dir=asked.output,
            max_steps=asked.steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=6,
            num_generations=8,
            max_completion_length=64,
            max_tool_calling_iterations=4,
            learning_rate=3e-4,
            max_grad_norm=0.1,
            loss_type="grpo",
            scale_rewards="none",
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_steps=10,
            report_to=[],
        ),
        environment_factory=HelpDesk,
    )
    trainer.train(resume_from_checkpoint=asked.resume)
    steps = [line for line in trainer.state.log_history if "reward" in line]
    for name, meaning in (("success", "right in the end"), ("fission/success", "recovered after an error")):
        told = [line[name] for line in steps if name in line]
        few = max(1, len(told) // 4)
        print(f"{meaning}: {sum(told[:few]) / few:.0%} at first, {sum(told[-few:]) / few:.0%} at last")


if __name__ == "__main__":
    main()
