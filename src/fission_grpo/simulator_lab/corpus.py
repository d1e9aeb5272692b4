"""About two thousand records for the Error Simulator, from the policy's own failures and from corrupted gold calls.

Explicit errors are executed in the real worlds, and the world's own text is the diagnosis. Calls that succeeded and
were wrong get theirs from a teacher: `rules`, or a model behind an endpoint. A diagnosis that would teach its reader to
copy from the reference is left out. Whole APIs are held out, so that a test asks for tools that were never seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from pydantic import Field, field_validator

from fission_grpo.algorithm.failures import Fault
from fission_grpo.chat.parse import parse_message, render_call
from fission_grpo.environments.base import Environment, Environments, Snapshot
from fission_grpo.environments.bfcl.environment import BfclEnvironment
from fission_grpo.errors import ConfigError, EnvironmentFault
from fission_grpo.files import read_jsonl
from fission_grpo.progress import ProgressCallback
from fission_grpo.rollout import turn_messages
from fission_grpo.run.folder import RunFolder
from fission_grpo.seeds import derive
from fission_grpo.settings import Settings
from fission_grpo.simulator.base import (
    Case,
    ErrorSimulator,
    FailedCall,
    Feedback,
    ReferencedSimulator,
    case_of,
    diagnose,
)
from fission_grpo.simulator.fault_fields import fields_at_fault, stated_first
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator_lab.records import WORLD_TEACHER, RecordOrigin, RecordSplit, SimulatorRecord, taught_leaks
from fission_grpo.tasks.corruption import Corruption, corrupt
from fission_grpo.tasks.dialogue import decision_points, premature_calls
from fission_grpo.tasks.gold_chain import chain_of
from fission_grpo.tasks.probe import can_be_probed
from fission_grpo.tasks.synthesis.api_sets import API_SETS, tools_by_name
from fission_grpo.tasks.synthesis.families import APIS, HELDOUT_APIS
from fission_grpo.tasks.synthesis.generator import Split, synthesise
from fission_grpo.types import ErrorClass, GroupKind, Message, ParsedMessage, Task, ToolCall, ToolOutcome

SPLITS: Mapping[str, RecordSplit] = MappingProxyType(
    {
        **dict.fromkeys(APIS, RecordSplit.TRAIN),
        "TwitterAPI": RecordSplit.VALIDATION,
        **dict.fromkeys((*HELDOUT_APIS, "TravelAPI"), RecordSplit.TEST),
    }
)
"""Which split an API belongs to; those that no training task uses by default are for the test. A world of the user's
own is one API more, for training: what is held out is the same for everybody."""

CLASS_SHARES: Mapping[ErrorClass, float] = MappingProxyType({ErrorClass.SILENT: 2.0, ErrorClass.UNKNOWN_TOOL: 0.7})
"""Weight of a class among the records of an API; 1 where it is not listed."""


class RecordSettings(Settings):
    """How many records, and of what."""

    seed: int = 0
    count: int = Field(default=2000, ge=1)
    """Records wanted, those of the policy included; fewer where too few different ones turn up."""
    tasks_per_api: int = Field(default=45, ge=1)
    """Synthesised tasks whose gold calls are corrupted."""
    policy_share: float = Field(default=0.5, ge=0, le=1)
    """Most of the records that may come from run folders."""
    apis: tuple[str, ...] = tuple(APIS)

    @field_validator("apis")
    @classmethod
    def _known(cls, apis: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [api for api in apis if api not in APIS]:
            raise ValueError(f"unknown API {', '.join(unknown)}; expected some of {', '.join(APIS)}")
        return apis


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongCall:
    """A wrong call in a dialogue, executed: what a record is made of."""

    case: Case
    """`outcomes` hold the world's real answer."""
    api: str
    origin: RecordOrigin
    name: str

    @property
    def call(self) -> ToolCall:
        return self.case.failed.parsed.calls[0]

    @property
    def outcome(self) -> ToolOutcome:
        return self.case.failed.outcomes[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordCount:
    """What became of the wrong calls."""

    records: int
    by_split: Mapping[str, int]
    by_error: Mapping[str, int]
    by_origin: Mapping[str, int]
    by_teacher: Mapping[str, int]
    leaking: int
    """Calls left out because their diagnosis holds a piece of the reference."""

    def plain(self) -> dict[str, Any]:
        """As JSON values; `telling` is the key of `leaking`."""
        return {{"leaking": "telling"}.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}


def simulator_records(
    settings: RecordSettings,
    *,
    runs: Sequence[Path] = (),
    own: OwnTasks | None = None,
    teacher: ErrorSimulator | ReferencedSimulator | None = None,
    progress: ProgressCallback = lambda done, note: None,
) -> tuple[list[SimulatorRecord], RecordCount]:
    """Records in a seeded order; a function of the arguments and of the files of `runs` (and of a model as teacher).

    Args:
        runs: run folders whose failures are used, each with its own settings inside.
        own: tasks whose gold calls are corrupted beside those of the official APIs.
        teacher: who diagnoses calls that succeeded and were wrong; `rules` by default.
        progress: called with how many sources are done, and the last of them: runs, APIs, and own tasks as one.

    Raises:
        ConfigError: a run folder without a run, or tasks that cannot be drawn.
    """
    failures: list[WrongCall] = []
    for done, run in enumerate(runs, 1):
        failures += policy_failures(run)
        progress(done, str(run))
    corrupted: list[WrongCall] = []
    for done, api in enumerate(settings.apis, len(runs) + 1):
        corrupted += corrupted_calls(api, settings)
        progress(done, api)
    if own is not None:
        corrupted += own.wrong_calls(settings.seed)
        progress(len(runs) + len(settings.apis) + 1, "own tasks")
    rng = Random(derive(settings.seed, "simulator records"))
    failures = [one for one in failures if one.api in settings.apis or one.api not in APIS]
    chosen = _balanced(failures, round(settings.count * settings.policy_share), rng)
    chosen += _balanced(corrupted, settings.count - len(chosen), rng)
    rng.shuffle(chosen)
    written = _written(chosen, teacher or RulesSimulator())
    records = [record for record in written if not taught_leaks(record)]
    return records, _count(records, leaking=len(written) - len(records))


def corrupted_calls(api: str, settings: RecordSettings) -> list[WrongCall]:
    """Every kind of wrong call at every decision position of the gold dialogues over one API, executed in its world.

    Calls without consequences (a harmless detour) are left out.
    """
    split = Split.HELDOUT if api in HELDOUT_APIS else Split.TRAIN
    tasks = synthesise(derive(settings.seed, "simulator") % 10**6, settings.tasks_per_api, apis=(api,), split=split)
    return _wrong_calls(tasks, BfclEnvironment(), settings.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTasks:
    """Tasks of the user's own, and where they live."""

    tasks: Sequence[Task]
    environments: Environments

    def wrong_calls(self, seed: int) -> list[WrongCall]:
        """As `corrupted_calls`; of the tasks that can be probed, and without calls that break their tool."""
        worlds: dict[str, list[Task]] = defaultdict(list)
        for task in filter(can_be_probed, self.tasks):
            worlds[task.world.environment if task.world else ""].append(task)
        return [one for name, tasks in worlds.items() for one in _wrong_calls(tasks, self.environments[name](), seed)]


def _wrong_calls(tasks: Iterable[Task], environment: Environment, seed: int) -> list[WrongCall]:
    found: list[WrongCall] = []
    for task in tasks:
        rng = Random(f"simulator/{seed}/{task.id}")
        found += [*_corrupted(task, rng, environment), *_premature(task, environment)]
    return found


def policy_failures(run: Path) -> list[WrongCall]:
    """What the policy of a run did wrong in exploration, one for each distinct wrong call of a dialogue.

    Malformed messages are left out: they have a fixed answer.

    Raises:
        ConfigError: no run in this folder, or one whose tasks cannot be had again.
    """
    folder = RunFolder(run)
    if not folder.config.exists() or not folder.traces.exists():
        raise ConfigError(f"{run} holds no run with traces; give the folder that `fission train --output` named")
    tasks = _tasks_of(folder)
    failed: dict[tuple[str, ...], tuple[Task, Mapping[str, Any]]] = {}
    for trace in read_jsonl(folder.traces):
        task = tasks.get(trace["task"])
        if task is None or trace["kind"] == GroupKind.FISSION:
            continue
        for trajectory in trace["trajectories"]:
            failure = trajectory["failure"]
            if failure and failure["fault"] == Fault.MODEL:
                # Siblings that say the same fail alike: one of them is replayed.
                failed.setdefault((task.id, *trajectory["text"][: failure["turn"] + 1]), (task, trajectory))
    found: dict[str, WrongCall] = {}
    for task, trajectory in failed.values():
        if one := _replayed(task, trajectory):
            found.setdefault(repr((one.case.failed.messages, one.call)), one)
    return [replace(one, name=f"policy/{run.name}/{place}") for place, one in enumerate(found.values())]


def _tasks_of(folder: RunFolder) -> dict[str, Task]:
    from fission_grpo.assembly import ENVIRONMENTS, with_own_environments  # the settings of a run name its simulator
    from fission_grpo.config import load_settings
    from fission_grpo.tasks.training_set import training_set

    settings = load_settings(file=folder.config)
    environments = with_own_environments(ENVIRONMENTS, settings.environments)
    chosen = training_set(settings.data, settings.synthetic, environments=environments, given=folder.tasks)
    return {task.id: task for task in chosen}


def _replayed(task: Task, trajectory: Mapping[str, Any]) -> WrongCall | None:
    """The failed message of one trajectory as its world saw it; None unless it is one well-formed call."""
    texts, replies, outcomes = trajectory["text"], trajectory["replies"], trajectory["outcomes"]
    failure = trajectory["failure"]
    turn = failure["turn"]
    messages: list[Message] = list(task.messages)
    for text, answers in zip(texts[:turn], replies[:turn], strict=True):
        messages += turn_messages(parse_message(text), text, answers)
    parsed = parse_message(texts[turn])
    if parsed.failures or len(parsed.calls) != 1 or not replies[turn]:
        return None
    made = outcomes[turn][0]
    error = ErrorClass(failure["error"])
    outcome = ToolOutcome(
        kind=made["kind"], text=replies[turn][0], error=ErrorClass(made["error"]) if made["error"] else None
    )
    failed = FailedCall(
        messages=tuple(messages), tools=task.tools, text=texts[turn], parsed=parsed, outcomes=(outcome,), error=error
    )
    return _wrong_call(case_of(task, failed), RecordOrigin.POLICY, task)


def _corrupted(task: Task, rng: Random, environment: Environment) -> Iterator[WrongCall]:
    values = [value for call in chain_of(task) for value in call.arguments.values()]
    for point in decision_points(task, environment=environment):
        environment.reset(point)
        before = environment.snapshot()
        for right in point.target:
            for kind in Corruption:
                wrong = corrupt(right, kind, tools=task.tools, others=values, rng=rng)
                if wrong is not None and (one := _executed(point, task, wrong, before, environment)):
                    yield replace(one, name=f"{one.api}/{point.id}/{kind}")


def _premature(task: Task, environment: Environment) -> Iterator[WrongCall]:
    """Gold calls made before the world is ready; none of a task in which one breaks its tool."""
    try:
        found = premature_calls(task, environment=environment)
    except EnvironmentFault:
        return
    points = {point.id: point for point in decision_points(task, environment=environment)} if found else {}
    for position, call in found:
        point = points[f"{task.id}/{position.turn}.{position.done}"]
        environment.reset(point)
        one = _executed(point, task, call, environment.snapshot(), environment)
        if one is not None:
            yield replace(one, name=f"{one.api}/{point.id}/premature")


def _executed(point: Task, task: Task, wrong: ToolCall, before: Snapshot, environment: Environment) -> WrongCall | None:
    """The wrong call with the world's answer; None where it does no harm, overran its limits, or broke its tool."""
    environment.restore(before)
    try:
        outcome = environment.execute(wrong)
        if outcome.error is ErrorClass.LIMIT or (not outcome.is_error and _harmless(point, environment)):
            return None
    except EnvironmentFault:
        return None
    failed = FailedCall(
        messages=point.messages,
        tools=point.tools,
        text=render_call(wrong),
        parsed=ParsedMessage(content="", calls=(wrong,), failures=()),
        outcomes=(outcome,),
        error=outcome.error or ErrorClass.SILENT,
    )
    return _wrong_call(Case(failed=failed, reference=_due(point)), RecordOrigin.CORRUPTION, task)


def _harmless(point: Task, environment: Environment) -> bool:
    """Whether the turn comes out right when the wrong call stands in for the right one."""
    for call in _due(point)[1:]:
        environment.execute(call)
    return environment.score().ok


def _due(point: Task) -> tuple[ToolCall, ...]:
    """Gold calls left of the user turn that a decision point stands in."""
    turn = sum(message["role"] == "user" for message in point.messages) - 1
    done = sum(len(message.get("tool_calls") or ()) for message in _since_user(point.messages))
    return tuple(point.gold[turn][done:])


def _since_user(messages: Sequence[Message]) -> Sequence[Message]:
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    return messages[last:]


def _wrong_call(case: Case, origin: RecordOrigin, task: Task) -> WrongCall | None:
    """With its API: that of the tool called, else of the tool that was due; a world of the user's own is one.

    None where the call is right after all.
    """
    names = [case.failed.parsed.calls[0].name, *(call.name for call in case.reference)]
    if not case.reference or case.failed.parsed.calls[0] == case.reference[0]:
        return None
    own = task.world.environment if task.world and task.world.environment not in API_SETS else None
    apis = () if own else task.meta.get("apis", ())
    owners = {name: api for api in apis for name in tools_by_name(api)}
    api = next((owners[name] for name in names if name in owners), own)
    return None if api is None else WrongCall(case=case, api=api, origin=origin, name=task.id)


def _balanced(candidates: Iterable[WrongCall], count: int, rng: Random) -> list[WrongCall]:
    """`count` of them: every API alike, and in it every class by its share, as far as there are enough."""
    shelves: dict[tuple[str, ErrorClass], list[WrongCall]] = defaultdict(list)
    for one in candidates:
        shelves[one.api, one.case.failed.error].append(one)
    for shelf in shelves.values():
        rng.shuffle(shelf)
    taken: Counter[tuple[str, ErrorClass]] = Counter()
    chosen: list[WrongCall] = []
    apis: Counter[str] = Counter()
    while len(chosen) < count and (open_ := [key for key, shelf in shelves.items() if shelf]):
        key = min(open_, key=lambda key: (apis[key[0]], taken[key] / CLASS_SHARES.get(key[1], 1.0)))
        chosen.append(shelves[key].pop())
        taken[key] += 1
        apis[key[0]] += 1
    return chosen


def _written(chosen: Sequence[WrongCall], teacher: ErrorSimulator | ReferencedSimulator) -> list[SimulatorRecord]:
    silent = [one for one in chosen if not one.outcome.is_error]
    taught = iter(diagnose(teacher, [one.case for one in silent]))
    return [
        _record(one, one.outcome.text, WORLD_TEACHER) if one.outcome.is_error else _taught(one, taught)
        for one in chosen
    ]


def _taught(one: WrongCall, taught: Iterator[Feedback]) -> SimulatorRecord:
    feedback = next(taught)
    text = feedback.texts[0].removeprefix(one.outcome.text).lstrip()
    return _record(one, text, feedback.origin)


def _record(one: WrongCall, diagnosis: str, teacher: str) -> SimulatorRecord:
    failed, call, reference = one.case.failed, one.call, one.case.reference
    system = "\n".join(str(m["content"]) for m in failed.messages if m["role"] == "system")
    named = stated_first(failed.error)
    return SimulatorRecord(
        id=one.name,
        split=SPLITS.get(one.api, RecordSplit.TRAIN),
        api=one.api,
        origin=one.origin,
        error=failed.error,
        system=system,
        tools=failed.tools,
        dialogue=tuple(message for message in failed.messages if message["role"] != "system"),
        failed=call,
        answer=None if one.outcome.is_error else one.outcome.text,
        reference=reference,
        diagnosis=diagnosis,
        teacher=teacher,
        fields=fields_at_fault(call, reference, failed.tools) if named else (),
    )


def _count(records: Sequence[SimulatorRecord], *, leaking: int) -> RecordCount:
    def by(values: Iterable[str]) -> Mapping[str, int]:
        return dict(sorted(Counter(values).items()))

    return RecordCount(
        records=len(records),
        by_split=by(str(record.split) for record in records),
        by_error=by(str(record.error) for record in records),
        by_origin=by(str(record.origin) for record in records),
        by_teacher=by(record.teacher for record in records),
        leaking=leaking,
    )
