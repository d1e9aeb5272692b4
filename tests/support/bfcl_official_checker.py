"""The official multi-turn checker of BFCL, run the only way it can be trusted; a script and an importable module.

As a script it reads episodes from stdin and writes verdicts to stdout, one JSON value a line: `{"category", "id",
"turns": [[source of a call, ...], ...], "texts": bool}` becomes `{"ok", "error", "texts": [[str, ...], ...] or null}`;
with `"gold": [[source of a call, ...], ...]` in place of the official gold, if given. `{"changed": true}` becomes
`{"changed": [name, ...]}`: what of the classes' modules is no longer what it was at the start.
It is meant for a process of its own: the checker evaluates text, and keeps every instance for ever in its globals.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
import types
from functools import cache
from typing import Any

from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_checker as checker
from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_utils as executor
from bfcl_eval.eval_checker.multi_turn_eval.func_source_code import posting_api, travel_booking

from fission_grpo.environments.bfcl.official import BFCL_CLASSES, official_class, records

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


def official_verdict(
    category: str, entry_id: str, turns: list[list[str]], gold: list[list[str]] | None = None
) -> tuple[bool, str]:
    """Whether the official checker accepts the calls, one step each, and else its name for the first fault."""
    entry, official_gold = entries(category)[entry_id]
    forget_everything(category)
    result = check(entry, gold or official_gold, [[[call] for call in turn] for turn in turns])
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


def held_by_modules() -> dict[str, str]:
    """Everything that outlives an instance: constants of the classes' modules, attributes of classes, defaults."""
    found: dict[str, str] = {}
    names = [official_class(name).__module__ for name in BFCL_CLASSES]
    for module in map(importlib.import_module, [*names, names[0].rpartition(".")[0] + ".long_context"]):
        found |= _held(module.__name__.rpartition(".")[2], module)
    return found


def _held(path: str, owner: Any) -> dict[str, str]:
    found = {}
    for name, value in vars(owner).items():
        place = f"{path}.{name}"
        if isinstance(value, type) and value.__module__.startswith("bfcl_eval"):
            found |= _held(place, value)
        elif isinstance(value, types.FunctionType):
            found[place] = repr((value.__defaults__, value.__kwdefaults__))
        elif not (name.startswith("__") or isinstance(value, type | types.ModuleType) or callable(value)):
            found[place] = repr(value)
    return found


def answer(question: dict[str, Any], held: dict[str, str]) -> dict[str, Any]:
    if "changed" in question:
        forget_everything("long_context")
        return {"changed": sorted(name for name, value in held_by_modules().items() if value != held.get(name))}
    place = question["category"], question["id"], question["turns"]
    texts = official_texts(*place) if question["texts"] else None
    ok, error = official_verdict(*place, question.get("gold"))
    return {"ok": ok, "error": error, "texts": texts}


def main() -> None:
    held = held_by_modules()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line), held)) + "\n")


if __name__ == "__main__":
    main()
