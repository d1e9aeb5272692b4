"""The official Qwen FC handler, its inference loop and the official scorer, with a script in the place of the model.

As a script it reads questions from stdin and writes answers to stdout, one JSON value a line:

`{"category", "id"}` gives `{"prompt": digest}`, the first one of the entry;
`{"category", "id", "texts": [str, ...]}` plays the entry, the n-th query answered by the n-th text, later ones by
`Done.`, and gives `{"prompts": [digest, ...], "result", "valid", "error"}`;
`{"category", "id", "result"}` scores a stored result and gives `{"valid", "error"}`;
`{"decode": str}` gives `{"message", "stored", "calls": [source, ...] or null}`.

It is meant for a process of its own: the official code evaluates text, keeps every instance for ever, prints, and makes
folders where `BFCL_PROJECT_ROOT` points. Packages that it imports and that nothing here calls are stubs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import sys
from functools import cache
from itertools import chain, repeat
from types import ModuleType, SimpleNamespace
from typing import Any


class _Anything(ModuleType):
    """A module whose every attribute is a decorator or base class that changes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **options: None}) if name[0].isupper() else _unchanged


def _unchanged(*arguments: Any, **options: Any) -> Any:
    return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else _unchanged


for stub in (
    *("overrides", "tenacity", "tree_sitter", "tree_sitter_java", "tree_sitter_javascript", "openai", "requests"),
    *("dotenv", "tqdm", "bfcl_eval.constants.model_config", "bfcl_eval.model_handler.parser.java_parser"),
    *("bfcl_eval.model_handler.parser.js_parser", "bfcl_eval.eval_checker.eval_runner_helper"),
    *("bfcl_eval.eval_checker.agentic_eval.agentic_checker", "bfcl_eval.eval_checker.ast_eval.ast_checker"),
):
    sys.modules[stub] = _Anything(stub)

from bfcl_eval.eval_checker import eval_runner  # noqa: E402 (after the stubs)
from bfcl_eval.model_handler.local_inference.qwen_fc import QwenFCHandler  # noqa: E402
from bfcl_eval.utils import load_dataset_entry, load_ground_truth_entry  # noqa: E402
from bfcl_official_checker import forget_everything  # noqa: E402

_MODEL = "oracle"
DONE = "Done."
"""What the script says when its texts are used up."""


class ScriptedHandler(QwenFCHandler):
    """The official handler; only the query is ours."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__(_MODEL, 0.001, _MODEL, True)
        self.texts = chain(texts, repeat(DONE))
        self.prompts: list[str] = []

    def _query_prompting(self, inference_data: dict[str, Any]) -> tuple[Any, float]:
        self.prompts.append(self._format_prompt(inference_data["message"], inference_data["function"]))
        return _response(next(self.texts)), 0.0


def _response(text: str) -> Any:
    usage = SimpleNamespace(prompt_tokens=0, completion_tokens=0)
    return SimpleNamespace(choices=[SimpleNamespace(text=text)], usage=usage)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _entries(category: str) -> dict[str, tuple[dict[str, Any], list[list[str]]]]:
    name = f"multi_turn_{category}"
    gold = {answer["id"]: answer["ground_truth"] for answer in load_ground_truth_entry(name)}
    return {entry["id"]: (entry, gold[entry["id"]]) for entry in load_dataset_entry(name)}


def _entry(category: str, id_: str) -> dict[str, Any]:
    """A copy, because the official code changes what it gets."""
    copied: dict[str, Any] = pickle.loads(pickle.dumps(_entries(category)[id_][0]))
    return copied


def first_prompt(category: str, id_: str) -> dict[str, Any]:
    entry, handler = _entry(category, id_), ScriptedHandler([])
    data = handler.add_first_turn_message_prompting(
        handler._pre_query_processing_prompting(entry), entry["question"][0]
    )
    return {"prompt": _digest(handler._format_prompt(data["message"], data["function"]))}


def play(category: str, id_: str, texts: list[str]) -> dict[str, Any]:
    entry = _entry(category, id_)
    handler = ScriptedHandler(texts)
    forget_everything(category)
    try:
        result, _ = handler.inference(entry, False, True)
    except Exception as error:  # noqa: BLE001 (as the official generation does)
        result = f"Error during inference: {error}"
    return {"prompts": list(map(_digest, handler.prompts)), "result": result, **score(category, id_, result)}


def score(category: str, id_: str, result: Any) -> dict[str, Any]:
    entry, gold = _entry(category, id_), _entries(category)[id_][1]
    forget_everything(category)
    found = eval_runner._evaluate_single_multi_turn_entry(
        ScriptedHandler([]), id_, result, gold, entry, _MODEL, f"multi_turn_{category}"
    )
    return {"valid": found["valid"], "error": found.get("error", {}).get("error_type", "")}


def decode(text: str) -> dict[str, Any]:
    handler = ScriptedHandler([])
    parsed = handler._parse_query_response_prompting(_response(text))
    stored = parsed["model_responses"]
    try:
        calls = handler.decode_execute(stored, has_tool_call_tag=False)
    except Exception:  # noqa: BLE001 (as the official loop does)
        calls = None
    return {"message": parsed["model_responses_message_for_chat_history"], "stored": stored, "calls": calls}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    if "decode" in question:
        return decode(question["decode"])
    place = question["category"], question["id"]
    if "result" in question:
        return score(*place, question["result"])
    return play(*place, question["texts"]) if "texts" in question else first_prompt(*place)


def main() -> None:
    for line in sys.stdin:
        with contextlib.redirect_stdout(io.StringIO()):
            found = answer(json.loads(line))
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
