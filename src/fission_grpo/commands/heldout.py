"""The evaluation of one model on our own held-out tasks by settings: assembled, played, and put into words.

settings.json    what was asked for; it stands there before anything is played
episodes.jsonl   one line for each episode; so, too, transfer, mixed and precondition
complete.json    how many there are of each
...              while it is played: see `evaluation/partial.py`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fission_grpo.assembly import ENVIRONMENTS
from fission_grpo.commands.trained_run import record_origin
from fission_grpo.config import RunSettings
from fission_grpo.environments.base import Environments
from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.heldout import (
    Evaluation,
    PlayedItem,
    Player,
    build_suite,
    play_items,
    suite_items,
)
from fission_grpo.evaluation.metrics import EPISODE_METRICS, PROBE_METRICS, Metric, measure
from fission_grpo.evaluation.paired import EvaluatedArm
from fission_grpo.evaluation.partial import PartialEvaluation
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.session import require_free, reserve
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.models.catalog import load_policy_model
from fission_grpo.models.served import open_served_model
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.progress import progress
from fission_grpo.report.tables import metrics_table
from fission_grpo.run.lock import writing_into
from fission_grpo.tasks.synthesis.generator import Split
from fission_grpo.tasks.training_set import SYNTHETIC

METRICS: Mapping[str, tuple[Metric, ...]] = {
    "episodes": EPISODE_METRICS,
    "transfer": EPISODE_METRICS,
    "mixed": PROBE_METRICS,
    "precondition": PROBE_METRICS,
}
"""What each part is measured by."""

_KEYS: Mapping[str, str] = {"erred": "error", "stopped": "cut_off"}
"""Name of a metric -> its key in the JSON of evaluations on tasks of ours and of the user, where that is another."""

_TITLES: Mapping[str, str] = {
    "episodes": "Held-out episodes",
    "transfer": "Episodes on an API never trained on",
    "mixed": "Fixed-error probe, all kinds of errors",
    "precondition": "Fixed-error probe, unmet preconditions only",
}


def evaluate_heldout(
    settings: RunSettings,
    *,
    output: Path,
    split: Split,
    seed: int,
    size: int,
    server: str | None = None,
    resume: bool = False,
) -> Evaluation:
    """Play the suite that fits the tasks of some settings, greedily, and keep everything in `output`.

    Each record is written as its episode ends. By the same settings an evaluation may be gone on with, or be played
    again: a finished one is replaced when the new one is whole.

    Args:
        server: see `load_player`.
        resume: go on with what was stopped.
    Raises:
        ConfigError: the folder holds an evaluation by other settings, or another process writes into it; or no
            such model, tasks that cannot be drawn, or prompts that leave no room for an answer, and then the folder is
            left alone.
    """
    if settings.data != SYNTHETIC:
        raise ConfigError(f"data={settings.data}: evaluation plays synthesised held-out tasks only; leave data out")
    settings = settings if server else settings.from_anywhere()
    model = settings.model_dump(mode="json", include={"model", "chat_template", "precision", "rollouts", "synthetic"})
    asked = {**model, **on_server(server), "split": split, "seed": seed, "size": size}
    with writing_into(output):
        require_free(output, asked, resume=True)
        player = load_player(settings, environments=ENVIRONMENTS, server=server)
        synthetic = settings.synthetic
        suite = build_suite(
            split=split, seed=seed, size=size, apis=synthetic.apis, mixture=synthetic.mixture, tools=synthetic.tools
        )
        items = suite_items(suite)
        tasks, data = [item.task for item in items], f"{SYNTHETIC} {split}"
        begun = partial(record_origin, output, settings.model, chat=player.chat, tasks=tasks, data=data)
        return play_into(output, items, player, asked=asked, begun=begun, resume=resume)


def play_into(
    output: Path,
    items: Sequence[PlayedItem],
    player: Player,
    *,
    asked: Mapping[str, Any],
    begun: Callable[[], None] = lambda: None,
    resume: bool,
) -> Evaluation:
    """Play what a folder does not hold yet, and leave a whole evaluation there.

    Args:
        asked: for `settings.json`; what it calls `model` is the model.
        begun: called when the folder is taken, if there is anything to play.
    Raises:
        ConfigError: prompts leave no room for an answer, and then the folder is left alone; or what it holds cannot be
            read.
    """
    kept = PartialEvaluation(output, resume=resume)

    def begin() -> None:
        reserve(output, asked)
        if len(kept.held) < len(items):
            begun()
        kept.begin()

    with episodes_shown(len(items)) as report:
        found = play_items(items, player, held=kept.held, begin=begin, keep=kept.keep, report=report)
    kept.finish({part: records for part, records in found.parts.items() if any(item.part == part for item in items)})
    return found


def on_server(server: str | None) -> dict[str, str]:
    """What `settings.json` says of a server; nothing where there is none."""
    return {} if server is None else {"server": server}


def load_player(settings: RunSettings, *, environments: Environments, server: str | None = None) -> Player:
    """The model of some settings, ready to be evaluated within their limits.

    Args:
        server: address of a vLLM server that has the model; None loads it on this machine.
    Raises:
        ConfigError: no such model, one that cannot be loaded, or no such server.
    """
    if server is not None:
        served = open_served_model(
            settings.model,
            server,
            chat_template=settings.chat_template,
            chat_template_kwargs=settings.chat_template_kwargs,
        )
        return Player(policy=served.policy, chat=served.chat, environments=environments, rollouts=settings.rollouts)
    loaded = load_policy_model(
        settings.model,
        chat_template=settings.chat_template,
        chat_template_kwargs=settings.chat_template_kwargs,
        precision=settings.precision,
    )
    model = loaded.model.to(Accelerator().device)
    policy = HFPolicy(model, eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id, share=settings.trainer.tree)
    return Player(policy=policy, chat=loaded.chat, environments=environments, rollouts=settings.rollouts)


@contextmanager
def episodes_shown(total: int) -> Iterator[Callable[[int], None]]:
    """Progress of an evaluation: the function is told how many more episodes are done."""
    done = 0
    with progress("eval", total=total) as advance:

        def report(more: int) -> None:
            nonlocal done
            done += more
            advance(done, "")

        yield report


def rates_by_key(metrics: Iterable[Metric], records: Sequence[EpisodeRecord]) -> dict[str, Rate]:
    """What some episodes are measured by, under the keys of our JSON."""
    return {_KEYS.get(metric.name, metric.name): measure(metric, records) for metric in metrics}


def rates(evaluation: Evaluation) -> dict[str, dict[str, dict[str, Any]]]:
    """Every metric of every part as counts with a 95 % interval."""
    return {
        part: {key: rate.as_json() for key, rate in rates_by_key(METRICS[part], records).items()}
        for part, records in evaluation.parts.items()
        if records
    }


def tables(evaluation: Evaluation, *, name: str) -> str:
    """The same as Markdown."""
    return "\n".join(
        f"{_TITLES[part]}\n\n{metrics_table([EvaluatedArm(name=name, runs={0: records})], METRICS[part])}"
        for part, records in evaluation.parts.items()
        if records
    )
