"""A user's own world: found by its name, tried before anything is spent, trained in, and judged by its own score."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_policies import chat, hidden_task, say, scripted, tiny_model
from typer.testing import CliRunner

from fission_grpo.algorithm.judge import Judge
from fission_grpo.assembly import ENVIRONMENTS, assemble
from fission_grpo.cli import app
from fission_grpo.config import RunSettings, load_settings, read_overrides
from fission_grpo.environments.functions.imported import environments_of, imported_environments
from fission_grpo.environments.functions.schema_of import toolbox
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_jsonl
from fission_grpo.policy.base import Sampling
from fission_grpo.preflight import require_judges, require_requests
from fission_grpo.rollout import Horizon, open_task, rollout
from fission_grpo.tasks.dialogue import decision_points
from fission_grpo.tasks.jsonl import read_tasks, write_tasks
from fission_grpo.types import Task, ToolCall, World

SOURCE = '''
from fission_grpo.environments.functions.environment import FunctionEnvironment
from fission_grpo.environments.limits import CallLimits
from fission_grpo.errors import ToolError


class Shelf:
    """Lends books."""

    def reset(self, books: list[str], wanted: list[str]) -> None:
        self.books, self.wanted = set(books), set(wanted)
        self.gone = set()

    def borrow(self, title: str) -> str:
        """Borrow a book.

        Args:
            title: the book's title
        """
        if title not in self.books:
            raise ToolError(f"no such book: {title}")
        self.books.remove(title)
        self.gone.add(title)
        return "borrowed"


class Library(Shelf):
    """Is content when exactly the wanted books are gone."""

    def score(self) -> float:
        return len(self.gone & self.wanted) / len(self.wanted) if self.gone <= self.wanted else 0.0


class Fickle(Library):
    lives = 0

    def reset(self, books: list[str], wanted: list[str]) -> None:
        super().reset(books, wanted)
        Fickle.lives += 1
        self.life = Fickle.lives


class NoWorld:
    pass


def make() -> FunctionEnvironment:
    return FunctionEnvironment.from_class(Library, name="library")


def make_nothing() -> int:
    return 3


def make_trouble() -> None:
    raise RuntimeError("no database")


def double(number: int) -> int:
    """Double a number.

    Args:
        number: which
    """
    return 2 * number


def patient() -> FunctionEnvironment:
    return FunctionEnvironment.from_class(Library, name="library", limits=CallLimits(characters=3))


TOOLS = [double]
MIXED = [double, 3]
EMPTY = []
NUMBER = 3
'''
EMMA, DUNE = (ToolCall(name="borrow", arguments={"title": title}) for title in ("Emma", "Dune"))


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current folder, as a user has it."""
    (tmp_path / "own_shop.py").write_text(SOURCE)
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_shop", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = chat().renderer.tokenizer
    tiny_model(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def library() -> type[Any]:
    sys.path.append(str(Path.cwd()))
    found: type[Any] = importlib.import_module("own_shop").Library
    return found


def lend(number: int = 0, **changes: Any) -> Task:
    """A task without gold: the world says how it stands."""
    task = Task(
        id=f"lend-{number}",
        messages=({"role": "user", "content": "I want to read Emma."},),
        tools=toolbox(library()),
        world=World(environment="library", config={"books": ["Emma", "Dune"], "wanted": ["Emma"]}),
    )
    return replace(task, **changes)


def settings(place: str, *overrides: str) -> RunSettings:
    write_tasks("tasks.jsonl", [lend(0), lend(1)])
    given = ["data=tasks.jsonl", f"environments.library={place}", "trainer.horizon=turn", *overrides]
    return load_settings(overrides=read_overrides(given))


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "raise SystemExit(3)", "exit(3)"])
def test_a_module_that_ends_the_program_is_told(code: str) -> None:
    Path("leaves.py").write_text(f"{code}\nWorld = 1\n")
    sys.modules.pop("leaves", None)
    with pytest.raises(ConfigError, match=r"environments\.own: import leaves ends the program \(sys\.exit\(3\)\)"):
        imported_environments({"own": "leaves:World"})


@pytest.mark.parametrize("kind", ["Library", "make"])
def test_a_class_of_tools_and_a_function_that_makes_environments_are_worlds(kind: str) -> None:
    environment = imported_environments({"library": f"own_shop:{kind}"})["library"]()
    environment.reset(lend())
    assert environment.score().matched == 0.0
    assert environment.execute(EMMA).text == "borrowed"
    assert environment.score().ok


def test_a_list_of_functions_is_a_world_for_a_program_and_for_the_settings() -> None:
    (found,) = imported_environments({"double": "own_shop:TOOLS"}).values()
    (given,) = environments_of({"double": sys.modules["own_shop"].TOOLS}).values()
    task = lend(tools=(), world=World(environment="double", config={}))
    for environment in (found(), given()):
        environment.reset(task)
        assert environment.execute(ToolCall(name="double", arguments={"number": 4})).text == "8"


def test_a_function_that_makes_environments_can_give_them_limits_of_their_own() -> None:
    environment = imported_environments({"library": "own_shop:patient"})["library"]()
    environment.reset(lend())
    assert environment.execute(EMMA).text == "bor\n[cut: the answer has more than 3 characters]"


@pytest.mark.parametrize("horizon", [Horizon.TURN, Horizon.EPISODE])
def test_a_world_that_judges_itself_rewards_whoever_satisfies_it(horizon: Horizon) -> None:
    environments = imported_environments({"library": "own_shop:Library"})
    answers = {"solved": (say(EMMA), "Done."), "harmed": (say(EMMA), say(DUNE), "Done."), "idle": ("Done.",)}
    members = {}
    for name, said in answers.items():
        (trajectory,) = rollout(
            [open_task(lend(), chat=chat(), environments=environments)],
            policy=scripted(*said),
            chat=chat(),
            sampling=Sampling(max_tokens=200),
            horizons=[horizon],
            max_turns=4,
            seed=0,
        )
        members[name] = Judge(chat=chat())(trajectory, horizon=horizon, progress=0.0)
    assert {name: member.success for name, member in members.items()} == {
        "solved": True,
        "harmed": False,
        "idle": False,
    }
    assert members["solved"].reward is not None
    assert members["solved"].reward.total == pytest.approx(1.0)


def test_two_steps_from_the_command_line_in_a_world_of_ones_own(model: Path) -> None:
    write_tasks("tasks.jsonl", [lend(number) for number in range(4)])
    arguments = [
        *("train", "--model", str(model), "--output", "run", "--json", "data=tasks.jsonl"),
        *("environments.library=own_shop:Library", "trainer.horizon=turn", "trainer.steps=2"),
        *("trainer.queries=2", "trainer.group_size=2", "fission.contexts=1", "fission.group_size=2"),
        *("rollouts.max_tokens=8", "rollouts.max_turns=2"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["finished"]
    explored = [line for line in read_jsonl(Path("run/traces.jsonl")) if line["kind"] == "exploration"]
    assert sorted(line["task"] for line in explored) == [f"lend-{number}" for number in range(4)]
    for line in explored:
        for member in line["trajectories"]:
            assert (member["end"], member["verdict"]) != ("harness_fault", None)
            assert member["reward"]["terms"]["progress"]["value"] == 0.0  # nobody borrowed anything
    assert CliRunner().invoke(app, ["train", "--resume", "--output", "run", "trainer.steps=3"]).exit_code == 0


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("own_shop", r"environments\.library: got 'own_shop', expected 'package\.module:name'"),
        ("no_such_module:Library", r"environments\.library: import no_such_module: ModuleNotFoundError"),
        ("own_broken:Library", r"environments\.library: import own_broken: ZeroDivisionError"),
        ("own_shop:Libary", r"own_shop \(.*own_shop\.py\) has no 'Libary'"),
        ("own_shop:NUMBER", r"own_shop:NUMBER is int; expected a class or a function"),
        ("own_shop:MIXED", r"own_shop:MIXED is a list of other things than functions; expected functions only"),
        ("own_shop:EMPTY", r"own_shop:EMPTY is empty; expected at least one function"),
        ("own_shop:NoWorld", r"NoWorld has no method reset\(\)"),
        ("own_shop:make_nothing", r"own_shop:make_nothing\(\) made int without reset, execute"),
        ("own_shop:make_trouble", r"RuntimeError: no database; correct it there"),
        ("own_shop:Fickle", r"not fit for training, as these tasks show\n  lend-0: reset: two resets"),
    ],
)
def test_a_world_that_cannot_work_is_refused_before_the_model_is_loaded(place: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        assemble(settings(place))  # the model is `nano`: loading it would take longer than this test


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"environments\.bfcl: this name is taken"):
        assemble(settings("own_shop:Library", "environments.bfcl=own_shop:Library"))


def test_a_world_that_nobody_knows_is_named() -> None:
    write_tasks("tasks.jsonl", [lend()])
    with pytest.raises(ConfigError, match="unknown environment 'library'; known: bfcl"):
        assemble(load_settings(overrides=read_overrides(["data=tasks.jsonl", "trainer.horizon=turn"])))


# Something must judge: gold, the world, or a target.


BLIND = hidden_task()
GOLDLESS = replace(BLIND, gold=())
AIMLESS = replace(GOLDLESS, target=())


@pytest.mark.parametrize("horizon", Horizon)
@pytest.mark.parametrize("recovery", [Horizon.TURN, None])
def test_gold_per_turn_judges_everything(horizon: Horizon, recovery: Horizon | None) -> None:
    require_judges([BLIND], ENVIRONMENTS, horizons={horizon}, recovery=recovery)


MIXED = {Horizon.CALL, Horizon.TURN}


@pytest.mark.parametrize(
    ("task", "horizons", "recovery", "expected"),
    [
        (
            GOLDLESS,
            {Horizon.TURN},
            None,
            r"nothing can judge a whole turn; .*choose trainer\.horizon=call and trainer\.turn_queries=0",
        ),
        (GOLDLESS, {Horizon.EPISODE}, Horizon.TURN, r"nothing can judge a whole episode"),
        (GOLDLESS, MIXED, None, r"nothing can judge a whole turn"),
        (
            GOLDLESS,
            {Horizon.CALL},
            Horizon.TURN,
            r"nothing can judge a recovery; .*choose fission\.horizon=call",
        ),
        (AIMLESS, {Horizon.CALL}, None, r"nothing says what the next call should be; .*trainer\.horizon=turn"),
        (AIMLESS, MIXED, None, r"nothing says what the next call should be"),
        (BLIND, {Horizon.TURN}, Horizon.CALL, r"fission\.horizon=call judges a recovery by the reference"),
        (
            BLIND,
            MIXED,
            Horizon.CALL,
            r"set trainer\.horizon=call and trainer\.turn_queries=0, or fission\.horizon=turn",
        ),
    ],
)
def test_a_task_that_nothing_judges_is_refused(
    task: Task, horizons: set[Horizon], recovery: Horizon | None, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        require_judges([task], ENVIRONMENTS, horizons=horizons, recovery=recovery)


def test_what_is_judged_in_its_own_way_is_taken() -> None:
    one_call, turn = {Horizon.CALL}, {Horizon.TURN}
    require_judges([GOLDLESS], ENVIRONMENTS, horizons=one_call, recovery=None)
    require_judges([GOLDLESS], ENVIRONMENTS, horizons=one_call, recovery=Horizon.CALL)
    environments = imported_environments({"library": "own_shop:Library"})
    require_judges([lend()], environments, horizons=turn, recovery=Horizon.TURN)
    require_judges([lend(target=(EMMA,))], environments, horizons=one_call, recovery=Horizon.TURN)
    with pytest.raises(ConfigError, match=r"1 task\(s\) \(lend-0\) have neither"):
        require_judges([lend()], environments, horizons=one_call, recovery=Horizon.TURN)
    shelf = imported_environments({"library": "own_shop:Shelf"})
    with pytest.raises(ConfigError, match="give the world a score"):
        require_judges([lend()], shelf, horizons=turn, recovery=None)


def test_whole_turns_need_a_place_to_begin_and_a_world_to_end_in() -> None:
    (_, *later) = decision_points(BLIND)
    require_requests([BLIND, *later], turn_queries=2)
    require_requests(later, turn_queries=0)
    for tasks in (later, [replace(BLIND, world=None)]):
        with pytest.raises(ConfigError, match=r"trainer\.turn_queries=2 explores whole turns, and none of the"):
            require_requests(tasks, turn_queries=2)


def test_a_file_of_tasks_without_gold_is_sound() -> None:
    write_tasks("tasks.jsonl", [lend()])
    assert read_tasks("tasks.jsonl", environments=imported_environments({"library": "own_shop:Library"})) == [lend()]
