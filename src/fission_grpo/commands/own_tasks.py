"""Evaluate a policy on tasks of the user's own: what `fission eval tasks` and `fission_grpo.evaluate` do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fission_grpo.assembly import ENVIRONMENTS, with_own_environments
from fission_grpo.commands.heldout import episodes_shown, load_player, on_server, play_into, rates_by_key
from fission_grpo.commands.trained_run import TrainedRun, record_origin
from fission_grpo.config import RunSettings, load_settings
from fission_grpo.environments.base import Environments
from fission_grpo.environments.functions.imported import environments_of
from fission_grpo.evaluation.heldout import Evaluation, PlayedItem, play_items, save_parts
from fission_grpo.evaluation.metrics import (
    EPISODE_METRICS,
    ERR,
    FINAL,
    FIRST_ATTEMPT,
    PROBE,
    PROBE_METRICS,
    harness_faults,
    measure,
)
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.evaluation.session import require_free, reserve
from fission_grpo.evaluation.statistics import Rate
from fission_grpo.preflight import require_judges
from fission_grpo.rollout import Horizon
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.lock import writing_into
from fission_grpo.tasks.gold_chain import fingerprint
from fission_grpo.tasks.jsonl import Given, read_tasks, record_of, tasks_from
from fission_grpo.tasks.probe import ProbeKind, can_be_probed, probe_items
from fission_grpo.tasks.training_set import GIVEN
from fission_grpo.types import Task

PROBE_SEED = 0
"""Which errors are injected: the same before and after a training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """How a policy did, episode by episode; every number is counted from the records."""

    records: tuple[EpisodeRecord, ...]
    """One for each task, in order."""
    mixed: tuple[EpisodeRecord, ...] = ()
    """Continuations after an injected error of any kind; none without gold calls per turn to make them from."""
    precondition: tuple[EpisodeRecord, ...] = ()
    """Continuations after a gold call that came too early; none where the worlds show no unmet precondition."""
    broken: tuple[str, ...] = ()
    """How tools broke when wrong calls were tried for the probes: each kind once."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What was played, with what: for `settings.json`."""

    @property
    def metrics(self) -> dict[str, Rate]:
        """Every metric by name, as a count over a count; `docs/evaluation.md` defines them."""
        return rates_by_key(EPISODE_METRICS, self.records)

    @property
    def final(self) -> Rate:
        """Episodes that ended right."""
        return measure(FINAL, self.records)

    @property
    def first_attempt(self) -> Rate:
        """Episodes that ended right without a single error."""
        return measure(FIRST_ATTEMPT, self.records)

    @property
    def recovery(self) -> Rate:
        """Episodes that ended right, over those with an error; over none, it says nothing."""
        return measure(ERR, self.records)

    @property
    def parts(self) -> dict[str, tuple[EpisodeRecord, ...]]:
        """Episodes, and the probes that there are, by the names that the folder gives them."""
        probes = {"mixed": self.mixed, "precondition": self.precondition}
        return {"episodes": self.records, **{part: records for part, records in probes.items() if records}}

    def as_json(self) -> dict[str, Any]:
        """Every metric with its count and 95 % interval, see `Rate.as_json`; those of the probes under `probes`."""
        episodes, *probes = self.parts.items()
        measured = {
            part: {key: rate.as_json() for key, rate in rates_by_key(PROBE_METRICS, records).items()}
            for part, records in probes
        }
        return {
            **{key: rate.as_json() for key, rate in rates_by_key(EPISODE_METRICS, episodes[1]).items()},
            **({"probes": measured} if measured else {}),
        }

    def save(self, folder: Path | str) -> None:
        """Write settings and records where `fission compare` finds them; the same evaluation is replaced.

        Raises:
            ConfigError: the folder holds another evaluation, or another process writes into it.
        """
        with writing_into(Path(folder)):
            require_free(Path(folder), self.asked, resume=True)
            reserve(Path(folder), self.asked)
            save_parts(Path(folder), self.parts)

    def __str__(self) -> str:
        """Rates with 95 % intervals and counts, and what must be known to read them."""
        lines = [_line(metric.title, measure(metric, self.records)) for metric in (FINAL, FIRST_ATTEMPT, ERR)]
        if self.mixed:
            lines.append(_line(PROBE.title, measure(PROBE, self.mixed)))
        if self.precondition:
            lines.append(_line("  after a call too early", measure(PROBE, self.precondition)))
        if not self.recovery.total:
            lines.append("no episode had an error: nothing is known about recovery")
        if faults := harness_faults(self.records).successes:
            lines.append(f"{faults} of {len(self.records)} episodes were broken by faults of ours and are left out")
        if self.broken:
            lines.append(
                f"wrong calls broke tools in {len(self.broken)} way(s) that these did not announce, for instance "
                f"{self.broken[0]}: raise ToolError there, or such calls teach nothing"
            )
        return "\n".join(lines)


def _line(title: str, rate: Rate) -> str:
    return f"{title:<24} {rate}"


def evaluate(
    model: TrainedRun | Path | str,
    *,
    tasks: Given | Path | str,
    environments: Mapping[str, Any] | None = None,
    settings: RunSettings | None = None,
    output: Path | str | None = None,
    server: str | None = None,
    resume: bool = False,
    probes: bool = True,
) -> Evaluated:
    """Play tasks with a policy, greedily and for real: it sees every error, may retry, and decides when it is done.

    Where tasks have gold calls, errors are injected into them as well, the same for every policy: wrong versions of
    gold calls that their world has really refused (`tasks/probe.py`).

    Args:
        model: a run of `train`, a run folder, or what `settings.model` may be. A run brings settings along.
        tasks: tasks, objects with the keys of a line of a task file, or the path of such a file.
        environments: as for `train`; those of a run of `train` are known already.
        settings: limits of a rollout, chat template and precision, for a model that is no run.
        output: folder that is asked for before anything is played, and then written, each record as its episode ends.
        server: address of a vLLM server that has the model; None loads it on this machine.
        resume: go on with what was stopped in `output`.
        probes: also inject errors; wrong calls are tried for that, a few dozen for each task.

    Raises:
        ConfigError: model, tasks or environments cannot work or do not fit each other, nothing judges a task, or
            `output` holds another evaluation or is written by another process.
    """
    known: Environments = {**ENVIRONMENTS, **environments_of(environments or {})}
    if isinstance(model, TrainedRun):
        settings, name = settings or model.settings, str(RunFolder(model.folder).trained_policy())
        known = {**model.environments, **known}
    elif (run := RunFolder(Path(model))).config.exists():
        settings, name = settings or load_settings(file=run.config), str(run.trained_policy())
        known = with_own_environments(known, settings.environments)
    else:
        settings, name = settings or RunSettings(), str(model)
        known = with_own_environments(known, settings.environments)
    if isinstance(tasks, Path | str):
        played = read_tasks(Path(tasks).expanduser(), environments=known)
    else:
        played = tasks_from(tasks, environments=known)
    require_judges(played, known, horizons={Horizon.EPISODE}, recovery=None)
    settings = settings.model_copy(update={"model": name})
    settings = settings if server else settings.from_anywhere()
    data = str(tasks) if isinstance(tasks, Path | str) else GIVEN
    kept = {"model", "chat_template", "precision", "rollouts", "environments"}
    tasks_kept = {"tasks": len(played), "fingerprint": fingerprint([record_of(task) for task in played])}
    broken: dict[str, None] = {}
    injected = list(_injected(played, known, lambda fault: broken.setdefault(fault))) if probes else []
    seed = {"probe_seed": PROBE_SEED} if injected else {}
    asked = {**tasks_kept, **settings.model_dump(mode="json", include=kept), **on_server(server), **seed}
    items = [*(PlayedItem(part="episodes", task=task) for task in played), *injected]
    if output is None:
        player = load_player(settings, environments=known, server=server)
        with episodes_shown(len(items)) as report:
            return _evaluated(play_items(items, player, report=report), asked, broken)
    with writing_into(Path(output)):
        require_free(Path(output), asked, resume=True)
        player = load_player(settings, environments=known, server=server)
        begun = partial(record_origin, Path(output), settings.model, chat=player.chat, tasks=played, data=data)
        found = play_into(Path(output), items, player, asked=asked, begun=begun, resume=resume)
    return _evaluated(found, asked, broken)


def _evaluated(found: Evaluation, asked: Mapping[str, Any], broken: Iterable[str]) -> Evaluated:
    mixed, precondition = found.mixed, found.precondition
    return Evaluated(records=found.episodes, mixed=mixed, precondition=precondition, broken=tuple(broken), asked=asked)


def _injected(tasks: Sequence[Task], environments: Environments, broken: Callable[[str], None]) -> Iterator[PlayedItem]:
    """The fixed-error probes that can be made from some tasks."""
    fit = [task for task in tasks if can_be_probed(task)]
    for kind in (ProbeKind.MIXED, ProbeKind.PRECONDITION):
        for item in probe_items(fit, PROBE_SEED, kind, environments=environments, broken=broken):
            yield PlayedItem(part=str(kind), task=item.task, probe=item)
