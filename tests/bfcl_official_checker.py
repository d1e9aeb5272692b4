"""The official multi-turn checker of BFCL, run the only way it can be trusted; a script and an importable function.

As a script it reads episodes from stdin and writes verdicts to stdout, one JSON value a line:
`{"category", "id", "turns": [[source of a call, ...], ...]}` -> `{"ok": bool, "error": str}`. It is meant for a process of its
own: the checker evaluates text and keeps every instance for ever in its module's globals.
"""

from __future__ import annotations

import copy
import json
import sys
from functools import cache
from typing import Any

from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_checker as checker
from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils as executor
from bfcl_eval.eval_checker.multi_turn_eval.func_source_code import posting_api, travel_booking

from fission_grpo.environments.bfcl_official import records

_PRISTINE = {name: copy.deepcopy(getattr(travel_booking, name)) for name in ("CREDIT_CARD_EXTENSION", "BOOKING_RECORD_EXTENSION")}
_MODEL = "oracle"  # a legal identifier: with an illegal one every answer is judged right


@cache
def entries(category: str) -> dict[str, tuple[dict[str, Any], list[list[str]]]]:
    """Official entries by id, each with its gold."""
    name = f"BFCL_v4_multi_turn_{category}.json"
    gold = {record["id"]: record["ground_truth"] for record in records(f"possible_answer/{name}")}
    return {record["id"]: (record, gold[record["id"]]) for record in records(name)}


def official_verdict(category: str, entry_id: str, turns: list[list[str]]) -> tuple[bool, str]:
    """Whether the official checker accepts the calls, one step each, and else its name for the first fault."""
    entry, gold = entries(category)[entry_id]
    _forget_everything(category == "long_context")
    steps = [[[call] for call in turn] for turn in turns]
    result = checker.multi_turn_checker(steps, gold, entry, category, _MODEL)
    return result["valid"], result.get("error_type", "")


def _forget_everything(long_context: bool) -> None:
    """Undo what earlier episodes left in the process, so that each is judged as if it were the first."""
    for name in [name for name in vars(executor) if name.startswith(_MODEL)]:
        del vars(executor)[name]
    posting_api.TwitterAPI.post_tweet.__defaults__ = ([], [])
    if long_context:
        for name, pristine in _PRISTINE.items():
            setattr(travel_booking, name, copy.deepcopy(pristine))


def main() -> None:
    for line in sys.stdin:
        episode = json.loads(line)
        ok, error = official_verdict(episode["category"], episode["id"], episode["turns"])
        sys.stdout.write(json.dumps({"ok": ok, "error": error}) + "\n")


if __name__ == "__main__":
    main()
