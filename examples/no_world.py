"""Train on decision points, where there is no world at all: `python examples/no_world.py`.

All there is: what was said, which tools are on offer, and which call would have been right next, as in rows of xLAM or
ToolACE (`fission data convert`). One message is sampled and compared with its gold call. If it is wrong, its feedback
comes from the tool's schema alone, and recoveries of one message are practised: the paper's setting. (`nano` knows the
names of a few tools and no others, and this is one of them.) Twelve seconds of processor time; what it leaves is in
runs/no-world.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from fission_grpo import evaluate, recipe, train

TOOL = {
    "type": "function",
    "function": {
        "name": "create_ticket",
        "description": "Create a ticket.",
        "parameters": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "description": "what it is called"},
                "description": {"type": "string", "description": "what it is about"},
                "priority": {"type": "integer", "description": "from 1 to 5", "minimum": 1, "maximum": 5},
            },
            "required": ["title", "description"],
        },
    },
}
WORDS = ("copper", "lantern", "garden", "island", "pocket", "granite", "mirror", "quartz", "meadow", "cobalt", "paddle")


def make_points(name: str, count: int) -> list[dict[str, Any]]:
    """What somebody asks, and the call that is right; drawn anew for each name."""
    draw = random.Random(name)
    made = []
    for number in range(count):
        title, description = draw.sample(WORDS, 2)
        priority = draw.randint(1, 5)
        asked = f'Please create the ticket "{title}" saying "{description}" with priority {priority}.'
        arguments = {"title": title, "description": description, "priority": priority}
        made.append(
            {
                "id": f"{name}-{number}",
                "messages": [{"role": "user", "content": asked}],
                "tools": [TOOL],
                "gold": [{"name": "create_ticket", "arguments": arguments}],
            }
        )
    return made


def main() -> None:
    """Measure, train, measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=10, help="updates")
    options.add_argument("--output", default="runs/no-world", help="the run folder")
    asked = options.parse_args()

    held_out = make_points("held-out", 60)
    settings = recipe("nano", {"trainer.steps": asked.steps, "output": asked.output}, arm="fission-decision")
    before = evaluate("nano", tasks=held_out, settings=settings)
    run = train(settings, tasks=make_points("training", 100))
    after = evaluate(run, tasks=held_out)
    print(f"before training\n{before}\nafter {run.step} updates\n{after}\n{run}")


if __name__ == "__main__":
    main()
