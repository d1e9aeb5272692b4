"""The official multi-turn checker of BFCL, run the only way it can be trusted; a script and an importable module.

As a script it reads episodes from stdin and writes verdicts to stdout, one JSON value a line: `{"category", "id",
"turns": [[source of a call, ...], ...], "texts": bool}` becomes `{"ok", "error", "texts": [[str, ...], ...] or null}`.
It is meant for a process of its own: the checker evaluates text, and keeps every instance for ever in its globals.
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

from fission_grpo.environments.bfcl.official import records

_PRISTINE = {
    name: copy.deepcopy(getattr(travel_booking, name)) for name in ("CREDIT_CARD_EXTENSION", "BOOKING_RECORD_EXTENSION")
}
_MODEL = "oracle"  # a legal identifier: with an illegal one every answer is judged right


@cache
def entries(category: str) -> dict[str, tuple[dict[str, Any], list[list[str]]]]:
    """Official entries by id, each with its gold."""
    name = f"BFCL_v4_multi_turn_{category}.json"
    gold = {record["id"]: record["ground_truth"] for record in records(f"possible_answer/{name}")}
    return {record["id"]: (record, gold[record["id"]]) for record in records(name)}


def check(entry: dict[str, Any], gold: list[list[str]], steps: list[list[list[str]]]) -> dict[str, Any]:
    """The official checker itself; call `forget_everything` before each episode."""
    result: dict[str, Any] = checker.multi_turn_checker(steps, gold, entry, "", _MODEL)
    return result


def forget_everything(category: str) -> None:
    """Undo what earlier episodes left in the process, so that each is judged as if it were the first."""
    for name in [name for name in vars(executor) if name.startswith(_MODEL)]:
        del vars(executor)[name]
    posting_api.TwitterAPI.post_tweet.__defaults__ = ([], [])
    if category == "long_context":
        for name, pristine in _PRISTINE.items():
            setattr(travel_booking, name, copy.deepcopy(pristine))


def official_verdict(category: str, entry_id: str, turns: list[list[str]]) -> tuple[bool, str]:
    """Whether the official checker accepts the calls, one step each, and else its name for the first fault."""
    entry, gold = entries(category)[entry_id]
    forget_everything(category)
    result = check(entry, gold, [[[call] for call in turn] for turn in turns])
    return result["valid"], result.get("error_type", "")


def official_texts(category: str, entry_id: str, turns: list[list[str]]) -> list[list[str]]:
    """What the official executor answers to every call."""
    entry, _ = entries(category)[entry_id]
    forget_everything(category)
    return [
        executor.execute_multi_turn_func_call(
            calls, entry["initial_config"], entry["involved_classes"], _MODEL, entry_id, category == "long_context"
        )[0]
        for calls in turns
    ]


def main() -> None:
    for line in sys.stdin:
        episode = json.loads(line)
        place = episode["category"], episode["id"], episode["turns"]
        texts = official_texts(*place) if episode["texts"] else None
        ok, error = official_verdict(*place)
        sys.stdout.write(json.dumps({"ok": ok, "error": error, "texts": texts}) + "\n")


if __name__ == "__main__":
    main()
