"""Run folders written by hand, small enough to count in the head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "\u2028alert(1)\u2029",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "half a pair: \ud800",
)
"""What a model, a tool or a user may write."""


def call_text(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def trajectory(
    *turns: tuple[str, str | None],
    success: bool = False,
    reward: float | None = 0.0,
    advantage: float = 0.0,
    why: str = "because",
    end: str = "answered",
) -> dict[str, Any]:
    """One trajectory of three tokens a message, with a token of the world after each.

    Args:
        turns: the name of the tool that is called, and the class of the error that comes back, None for a right call;
            a name that is empty is an answer in words.
    """
    failed = next((place for place, (_, error) in enumerate(turns) if error), None)
    texts = [call_text(name) if name else "Done." for name, _ in turns]
    return {
        "text": texts,
        "calls": [[{"name": name, "arguments": {}}] if name else [] for name, _ in turns],
        "replies": [[f"reply to {name}"] if name else [] for name, _ in turns],
        "outcomes": [
            [{"kind": "error" if error else "success", "error": error}] if name else [] for name, error in turns
        ],
        "malformed": [[] for _ in turns],
        "end": end,
        "fault": None,
        "verdict": "ok" if success else "wrong state",
        "success": success,
        "reward": None
        if reward is None
        else {"total": reward, "scale": 1.0, "terms": {"verdict": {"value": reward, "weight": 1.0, "why": why}}},
        "advantage": advantage,
        "failure": None
        if failed is None
        else {"error": turns[failed][1], "turn": failed, "fault": "model", "reason": "no such thing"},
        "ids": [3 + place % 40 for place in range(4 * len(turns))],
        "sampled": [[4 * place, 4 * place + 3] for place in range(len(turns))],
    }


def group(
    name: str, step: int, members: Sequence[dict[str, Any]], *, task: str = "task-1", prompt: str = "do it"
) -> dict[str, Any]:
    """An exploration group."""
    return {
        **{"step": step, "group": name, "kind": "exploration", "task": task, "pulse": "alive", "depth": 0},
        **{"parent": None, "error": None, "feedback": None, "prompt": prompt, "prompt_ids": [1, 2, 3]},
        "trajectories": list(members),
    }


def fission_group(
    name: str,
    step: int,
    members: Sequence[dict[str, Any]],
    *,
    parent: tuple[str, int, int],
    error: str = "E4",
    **changes: Any,
) -> dict[str, Any]:
    """Recoveries from one message of another group."""
    return {
        **group(name, step, members),
        **{"kind": "fission", "depth": 1, "error": error, "feedback": ["no such file"]},
        "parent": {"group": parent[0], "trajectory": parent[1], "turn": parent[2]},
        **{"feedback_origin": "rules", "feedback_leakage": "blind", "feedback_fallback": None},
        "feedback_cost": {"prompt_tokens": 0, "tokens": 0, "seconds": 0.0},
        **changes,
    }


def row(step: int, **values: float) -> dict[str, Any]:
    """A line of `metrics.jsonl`."""
    return {
        **{"step": step, "success": 0.5, "first_error": 0.25, "reward": 0.5, "rewards/verdict": 0.5, "rollouts": 2},
        **{"groups/alive": 1.0, "frac_reward_zero_std": 0.0, "groups/all_right": 0.0, "groups/all_fail": 0.0},
        **{"update/entropy": 0.5, "update/grad_norm": 0.1, "update/unique_tokens": 10, "update/raw_tokens": 30},
        **{"generate/sampled": 40, "time/explore": 1.0, "time/update": 3.0},
        **values,
    }


def write_run(
    folder: Path,
    traces: Sequence[dict[str, Any]],
    *,
    rows: Sequence[dict[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A run folder with these groups."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = sorted({trace["step"] for trace in traces})
    lines = [row(step) for step in steps] if rows is None else rows
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "traces.jsonl").write_text("".join(json.dumps(trace) + "\n" for trace in traces))
    chosen = {"model": "nano", "trainer": {"seed": 3, "objective": "grpo"}} if settings is None else settings
    (folder / "config.yaml").write_text(json.dumps(chosen))
    return folder


def family(step: int, *, task: str = "task-1", rescued: int = 1) -> list[dict[str, Any]]:
    """A group of two that fail, and two recoveries from the first, of which so many are right."""
    failing = [trajectory(("cd", "E4"), ("cd", "E4"), ("", None), reward=0.0) for _ in range(2)]
    members = [
        trajectory(("ls", None), ("", None), success=True, reward=1.0, advantage=1.0)
        if place < rescued
        else trajectory(("cd", "E4"), ("", None), reward=0.0, advantage=-1.0)
        for place in range(2)
    ]
    name = f"{step}/{task}"
    return [
        group(name, step, failing, task=task),
        fission_group(f"{name}/fission", step, members, parent=(name, 0, 0), task=task),
    ]


def hostile_run(folder: Path, words: str = " ".join(HOSTILE)) -> Path:
    """A run in which everything that anybody writes is an attack."""
    traces = []
    for step in range(4):
        bad = trajectory((words, "E4"), ("", None), why=words)
        bad |= {"text": [call_text(words, x=words), words], "replies": [[words], []], "verdict": words}
        bad["failure"] |= {"reason": words}
        name = f"{step} {words}"
        traces.append(group(name, step, [bad, bad], task=words, prompt=words))
        good = trajectory(("ls", None), ("", None), success=True, reward=1.0, advantage=1.0, why=words)
        origin = {"feedback": [words], "feedback_origin": words}
        traces.append(fission_group(f"f{name}", step, [bad, good], parent=(name, 0, 0), **origin))
    settings = {"model": words.replace("\ud800", ""), "trainer": {"seed": 1, "objective": "<b>"}}
    return write_run(
        folder, traces, rows=[row(step, **{f"rewards/{HOSTILE[0]}": 0.5}) for step in range(4)], settings=settings
    )
