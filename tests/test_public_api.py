"""What a user's script sees: names that cost nothing until they are used, and one way to train and to evaluate."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_policies import chat, tiny_model

import fission_grpo
from fission_grpo import ConfigError, ToolError, evaluate, recipe, train
from fission_grpo.config import RunSettings
from fission_grpo.evaluation.compare_runs import compare_runs
from fission_grpo.files import read_jsonl
from fission_grpo.recipes import Recipe, load_recipe


class Library:
    """Is content when exactly the wanted books are gone."""

    def reset(self, books: list[str], wanted: list[str]) -> None:
        self.books, self.wanted, self.gone = set(books), set(wanted), set[str]()

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

    def score(self) -> float:
        return float(self.gone == self.wanted)


def lend(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"lend-{number}",
        "messages": [{"role": "user", "content": "I want to read Emma."}],
        "world": {"environment": "library", "config": {"books": ["Emma", "Dune"], "wanted": ["Emma"]}},
        **changes,
    }


TASKS = [lend(number) for number in range(4)]
LIBRARY = {"library": Library}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = chat().renderer.tokenizer
    tiny_model(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small(model: Path, folder: Path, **changes: Any) -> RunSettings:
    few = {"trainer.steps": 1, "trainer.queries": 2, "trainer.group_size": 2, "fission.contexts": 1}
    short = {"rollouts.max_tokens": 8, "rollouts.max_turns": 2, "fission.group_size": 2}
    return recipe("nano", {"model": str(model), "output": str(folder), **few, **short, **changes})


def test_importing_the_package_imports_nothing_that_takes_time() -> None:
    heavy = "{'torch', 'transformers', 'pydantic', 'numpy', 'accelerate', 'yaml'}"
    code = f"import sys, fission_grpo; dir(fission_grpo); print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there_and_sorted() -> None:
    assert fission_grpo.__all__ == sorted(fission_grpo.__all__)
    for name in fission_grpo.__all__:
        assert getattr(fission_grpo, name) is not None
        assert name in dir(fission_grpo)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = fission_grpo.trian


def test_a_recipe_is_changed_by_dotted_names_as_on_the_command_line() -> None:
    plain = load_recipe(Recipe.NANO)
    changed = recipe("nano", {"trainer.steps": 7, "lora.rank": 4})
    assert changed.trainer == plain.trainer.model_copy(update={"steps": 7})
    assert changed.lora is not None
    assert changed.folder == Path("runs/nano-train-seed0")
    assert recipe("nano", arm="grpo").fission.contexts == 0
    with pytest.raises(ConfigError, match="unknown recipe 'nona'; expected nano or nano-hard or smollm2 or paper"):
        recipe("nona")
    with pytest.raises(ConfigError, match="unknown arm 'ppo'"):
        recipe("nano", arm="ppo")
    with pytest.raises(
        ConfigError, match=r"num_generations \(changes\); the nearest by meaning is trainer\.group_size"
    ):
        recipe("nano", {"num_generations": 8})


def test_a_script_trains_and_evaluates_in_a_world_of_its_own(model: Path, tmp_path: Path) -> None:
    settings = small(model, tmp_path / "run")
    run = train(settings, tasks=TASKS, environments=LIBRARY)
    assert (run.finished, run.step, run.folder) == (True, 1, tmp_path / "run")
    assert run.policy.is_dir()
    assert str(run.policy) in str(run)
    assert [line["step"] for line in run.metrics] == [0]
    kept = list(read_jsonl(tmp_path / "run/tasks.jsonl"))
    assert [task["id"] for task in kept] == [task["id"] for task in TASKS]
    assert kept[0]["tools"][0]["function"]["name"] == "borrow"

    found = evaluate(run, tasks=TASKS)
    assert [record.task for record in found.records] == [task["id"] for task in TASKS]
    assert found.final.total == found.first_attempt.total == 4
    assert found.recovery.total == sum(record.erred for record in found.records)
    assert found.metrics["err"] == found.recovery
    assert found.as_json()["final"]["total"] == 4
    by_folder = evaluate(tmp_path / "run", tasks=tmp_path / "run/tasks.jsonl", environments=LIBRARY)
    assert by_folder.records == found.records
    by_model = evaluate(run.policy, tasks=TASKS, environments=LIBRARY, settings=settings)
    assert by_model.records == found.records

    found.save(tmp_path / "one")
    by_folder.save(tmp_path / "two")
    (part,) = compare_runs([tmp_path / "one", tmp_path / "two"]).contrasts
    assert (part.part, part.paired.entries) == ("episodes", 4)


def test_a_run_of_a_script_goes_on_with_the_same_tasks_only(model: Path, tmp_path: Path) -> None:
    train(small(model, tmp_path / "run"), tasks=TASKS, environments=LIBRARY)
    longer = small(model, tmp_path / "run", **{"trainer.steps": 2})
    with pytest.raises(ConfigError, match="already holds a run"):
        train(longer, tasks=TASKS, environments=LIBRARY)
    with pytest.raises(ConfigError, match="was started with other tasks"):
        train(longer, tasks=TASKS[:3], environments=LIBRARY, resume=True)
    run = train(longer, tasks=TASKS, environments=LIBRARY, resume=True)
    assert [line["step"] for line in run.metrics] == [0, 1]


def test_a_run_of_a_script_can_be_moved_and_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small(model, tmp_path / "run"), tasks=TASKS, environments=LIBRARY)
    saved = (tmp_path / "run/config.yaml").read_text()
    assert "data: given\n" in saved
    assert str(tmp_path / "run") not in saved
    (tmp_path / "run").rename(tmp_path / "moved")
    train(small(model, tmp_path / "moved", **{"trainer.steps": 2}), tasks=TASKS, environments=LIBRARY, resume=True)
    monkeypatch.chdir(tmp_path)
    again = small(model, Path("moved"), **{"trainer.steps": 3})  # another spelling of the path
    run = train(again, tasks=TASKS, environments=LIBRARY, resume=True)
    run = train(  # nobody gives the tasks again: the folder holds them
        run.settings.model_copy(update={"trainer": run.settings.trainer.model_copy(update={"steps": 4})}),
        environments=LIBRARY,
        resume=True,
    )
    assert [line["step"] for line in run.metrics] == [0, 1, 2, 3]


def test_given_tasks_that_are_not_there_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data=given stands for .*run/tasks\.jsonl is not there; give them again"):
        train(small(model, tmp_path / "run", data="given"), environments=LIBRARY)
    assert not (tmp_path / "run").exists()


def test_a_damaged_line_of_the_metrics_is_named(model: Path, tmp_path: Path) -> None:
    run = train(small(model, tmp_path / "run"), tasks=TASKS, environments=LIBRARY)
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write("{'step': 1}\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: 1 problem\(s\)\n  line 2: found "):
        _ = run.metrics


def test_a_policy_without_a_single_error_says_nothing_about_recovery() -> None:
    from fission_grpo import Evaluated

    said = str(Evaluated(records=()))
    assert "no episode had an error: nothing is known about recovery" in said
    assert re.search(r"Error recovery \(ERR\) +- \(0/0\)", said)


@pytest.mark.parametrize(
    ("tasks", "environments", "expected"),
    [
        ([lend(0)], {}, r"task 1: missing key 'tools', and no environment 'library' to ask for them"),
        ([lend(0, prompt="x")], LIBRARY, r"task 1: unknown key 'prompt'; the nearest by meaning is 'messages'"),
        ([], LIBRARY, "expected at least one"),
        ([lend(0)], {"library": int}, r"environments\['library'\]: int: .*reset"),
        ([lend(0)], {"library": 3}, r"environments\['library'\]: 3 is int; expected a class or a function"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    model: Path, tmp_path: Path, tasks: list[Any], environments: dict[str, Any], expected: str
) -> None:
    for attempt in (
        lambda: train(small(model, tmp_path / "run"), tasks=tasks, environments=environments),
        lambda: evaluate(model, tasks=tasks, environments=environments),
    ):
        with pytest.raises(ConfigError, match=expected):
            attempt()
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_cannot_be_evaluated(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"model": "nano"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no trained policy yet; finish it with: fission train --resume"):
        evaluate(tmp_path, tasks=TASKS, environments=LIBRARY)
