"""Our BFCL verdicts and texts against the official ones, on as many random episodes as there is time for.

Half of the episodes belong to entries in which policy and gold may share something. Each is a function of the seed and
its number: extra calls that share or stray, wrong calls, calls otherwise written, gold with calls of its own. Compared
are the verdict and its error type, of known calls and of calls played one by one, and the text of every call.

    python benchmarks/parity.py parity.jsonl [--episodes 100000] [--seed 0]

One process, one line for every 500 episodes; the same command again goes on where the file ends. It exits with 1 where
anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp(prefix="bfcl-"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import bfcl_official_checker as official
from bfcl_corruptions import played
from bfcl_parity import Episode, may_share, our_play, our_verdict, random_episode, same_texts

from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries

CHUNK = 500
TASKS = tuple(task for category in BfclCategory for task in bfcl_entries(category))
SHARING = tuple(filter(may_share, TASKS))


def episode(seed: int, number: int) -> Episode:
    """The episode of that number."""
    rng = random.Random(f"{seed} {number}")
    return random_episode(rng, rng.choice(SHARING if number % 2 else TASKS))


def difference(one: Episode) -> tuple[str, dict[str, Any] | None]:
    """The official error type, and what differs from it."""
    category, turns, gold = str(one.task.meta["category"]), played(one.turns), played(one.task.gold)
    official.forget_everything(category)  # ours loads the same modules
    verdict, (live, texts) = our_verdict(one.task, one.turns), our_play(one.task, one.turns)
    theirs = official.official_verdict(category, one.task.id, turns, gold)
    their_texts = official.official_texts(category, one.task.id, turns)
    mine = [(found.ok, found.error_type) for found in (verdict, live)]
    if mine == [theirs, theirs] and verdict == live and same_texts(texts, their_texts):
        return theirs[1], None
    found = {"entry": one.task.id, "kinds": one.kinds, "gold": gold, "turns": turns, "official": theirs, "ours": mine}
    return theirs[1], {**found, "texts": [texts, their_texts]}


def chunk(seed: int, first: int, episodes: int) -> dict[str, Any]:
    """One line of the file."""
    began, errors, kinds, differing = time.process_time(), Counter[str](), Counter[str](), []
    for number in range(first, first + episodes):
        one = episode(seed, number)
        error, found = difference(one)
        errors[error or "right"] += 1
        kinds.update(one.kinds)
        differing += [{"number": number, **found}] if found else []
    taken = time.process_time() - began
    counts = {"errors": dict(errors), "kinds": dict(kinds), "cpu_s": round(taken, 1)}
    return {"seed": seed, "first": first, "episodes": episodes, **counts, "differing": differing}


def held(path: Path, seed: int) -> Iterator[dict[str, Any]]:
    """The lines that a file holds; a last one that was cut short is taken off."""
    if not path.exists():
        return
    whole = path.read_text(encoding="utf-8")
    lines = whole[: whole.rfind("\n") + 1]
    path.write_text(lines, encoding="utf-8")
    for line in map(json.loads, lines.splitlines()):
        if line["seed"] != seed:
            raise SystemExit(f"{path} was made with seed {line['seed']}, got {seed}: name another file")
        yield line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = list(held(options.output, options.seed))
    first = sum(line["episodes"] for line in lines)
    while first < options.episodes:
        line = chunk(options.seed, first, min(CHUNK, options.episodes - first))
        with options.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        lines.append(line)
        first += line["episodes"]
        print(f"{first:>7,} episodes, {sum(len(each['differing']) for each in lines)} differ", flush=True)
    errors = sum((Counter(line["errors"]) for line in lines), Counter())
    kinds = sum((Counter(line["kinds"]) for line in lines), Counter())
    print("\n".join(f"{count:>9,}  {name}" for name, count in (*errors.most_common(), *kinds.most_common())))
    sys.exit(any(line["differing"] for line in lines))


if __name__ == "__main__":
    main()
