"""The command `fission`, from what is typed to files, exit codes and messages."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import NO_TOOLS
from click.testing import Result
from tiny_policies import ENVIRONMENTS, chat, tiny_model
from typer.testing import CliRunner

from fission_grpo.cli import app
from fission_grpo.environments.bfcl.entries import BfclCategory, bfcl_entries
from fission_grpo.evaluation.heldout import PARTS, Player
from fission_grpo.files import read_jsonl
from fission_grpo.models.catalog import load_policy_model
from fission_grpo.policy.scripted import ScriptedPolicy
from fission_grpo.rollout import RolloutSettings
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.interruption import Interruption
from fission_grpo.run.lock import writing_into
from fission_grpo.tasks.jsonl import read_tasks, write_tasks
from fission_grpo.tasks.synthesis.generator import synthesise

SMALL = (
    *("synthetic.count=4", "synthetic.apis=[TwitterAPI]", "synthetic.tools=[2, 3]"),
    *("trainer.queries=2", "trainer.group_size=2", "trainer.checkpoint_every=2"),
    *("rollouts.max_tokens=8", "rollouts.max_turns=2", "fission.contexts=1", "fission.group_size=2"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = chat().renderer.tokenizer
    tiny_model(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fission(*arguments: object) -> Result:
    """Type a command."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(model: Path, *arguments: object, steps: int = 2) -> Result:
    return fission("train", "--model", model, *SMALL, f"trainer.steps={steps}", *arguments)


def told(result: Result) -> Any:
    """The one JSON object on standard output."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


def numbers(run: Path) -> list[dict[str, float]]:
    """`metrics.jsonl` without times."""
    lines = read_jsonl(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]


def test_help_imports_nothing_that_takes_time() -> None:
    code = (
        "import sys, fission_grpo.cli; print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    result = fission("--help")
    assert result.exit_code == 0
    for command in ("train", "eval", "sft", "quickstart", "doctor", "data"):
        assert f"  {command} " in result.stdout


def test_fission_alone_shows_what_is_needed_first_and_how_to_see_the_rest() -> None:
    result = fission()
    assert result.exit_code == 0
    shown = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("  fission ")]
    assert shown == ["quickstart", "init", "train", "eval", "compare", "report", "doctor"]
    assert "fission --help shows all commands" in result.stdout
    assert "..." not in result.stdout  # no description is cut off


def test_the_version_is_that_of_the_package() -> None:
    assert fission("--version").stdout == f"fission-grpo {version('fission-grpo')}\n"


def test_without_a_recipe_a_training_says_what_it_will_do(model: Path) -> None:
    plain = train(model, "--dry-run", "--json", steps=7)
    assert told(plain)["settings"]["trainer"]["learning_rate"] == 1e-6
    said = " ".join(plain.stderr.split())
    assert (
        "no --recipe: GRPO with 1 corrective contexts a step; 7 updates of every weight at learning rate 1e-06" in said
    )
    assert "plain GRPO, no fission" in train(model, "--dry-run", "fission.contexts=0").stderr
    for named in (("--recipe", "nano"), ("--config", "empty.yaml")):
        Path("empty.yaml").write_text("", encoding="utf-8")
        assert "no --recipe" not in train(model, "--dry-run", *named).stderr


def test_nano_without_a_recipe_starts_from_its_own() -> None:
    small = [setting for setting in SMALL if not setting.startswith("fission")]
    asked = ("--dry-run", "--json", *small)
    left_out, named = fission("train", *asked), fission("train", "--recipe", "nano", *asked)
    assert "no --recipe: nano starts from its own" in left_out.stderr
    assert told(left_out)["settings"] == told(named)["settings"]
    assert told(left_out)["settings"]["fission"]["contexts"] == 4


def test_a_folder_may_be_called_like_a_recipe_and_is_a_model_all_the_same() -> None:
    Path("paper").mkdir()
    result = fission("train", "--model", "paper", "--dry-run")
    assert "no --recipe: plain GRPO, no fission" in result.stderr
    assert "paper holds no model" in result.stderr


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_says_what_the_training_will_do(
    rank: str, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    assert fission("train", "--model", "nowhere").stderr.count("no --recipe") == lines


def test_a_run_leaves_its_files_and_can_go_on(model: Path) -> None:
    first = train(model, "--output", "run", "--json", steps=1)
    assert first.exit_code == 0, first.stderr
    files = {"run": "run", "policy": "run/policy", "summary": "run/summary.md"}
    assert told(first) == {**files, "step": 1, "steps": 1, "finished": True}
    assert load_policy_model("run/policy").chat.eos_id == chat().eos_id
    more = fission("train", "--resume", "--output", "run", "trainer.steps=3", "--json")
    assert told(more)["step"] == 3, more.stderr
    assert [line["step"] for line in numbers(Path("run"))] == [0, 1, 2]
    straight = train(model, "--output", "straight", "--seed", "0", "trainer.steps=3")
    assert straight.exit_code == 0
    # The reward's schedule depends on the length of the run, so only what was sampled can be compared from step 1 on.
    assert numbers(Path("straight"))[0]["completions/mean_length"] == numbers(Path("run"))[0]["completions/mean_length"]


def test_the_same_command_gives_the_same_numbers_with_adapters_too(model: Path) -> None:
    for name in ("one", "two"):
        assert train(model, "--output", name, "--lora.rank", "2").exit_code == 0
    assert numbers(Path("one")) == numbers(Path("two"))
    assert train(model, "--output", "three", "--lora.rank", "2", "--seed", "1").exit_code == 0
    assert numbers(Path("one")) != numbers(Path("three"))
    assert Path("one/policy/adapter_config.json").exists()


def test_a_run_has_one_writer(model: Path) -> None:
    """Two that went on with one run once wrote their steps among each other."""
    train(model, "--output", "run", steps=1)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with writing_into(Path("run")):
        again = train(model, "--output", "run", "--resume", steps=3)
        assert again.exit_code == 2
        assert f"run is being written by process {os.getpid()} of" in again.stderr
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert train(model, "--output", "run", "--resume", steps=3).exit_code == 0
    assert [row["step"] for row in numbers(Path("run"))] == [0, 1, 2]


def test_a_run_leaves_what_else_lies_in_its_folder_alone(model: Path) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    typed = ("--demonstrations", "0", "--clean", "2", "--steps", "1", *SMALL)
    assert fission("sft", "--model", model, "--output", "mine", *typed).exit_code == 0
    assert load_policy_model("mine/policy").name == str(Path("mine/policy").resolve())
    assert Path("mine/thesis.tex").read_text() == "years of work"


def test_commands_that_are_printed_can_be_pasted_whatever_a_folder_is_called(model: Path) -> None:
    train(model, "--output", "my run; echo", steps=1)
    Path("my run; echo/policy").rename("elsewhere")
    refused = fission("eval", "heldout", "--run", "my run; echo")
    assert "finish it with: fission train --resume --output 'my run; echo'" in refused.stderr


def test_the_run_folder_is_named_after_what_was_asked_for(model: Path) -> None:
    assert train(model, "--arm", "grpo", "--seed", "5", steps=1).exit_code == 0
    assert RunFolder(Path("runs/run-grpo-seed5")).config.exists()


def test_a_dry_run_rehearses_and_writes_nothing(model: Path) -> None:
    plan = told(train(model, "--dry-run", "--json", "--output", "run", steps=10))["plan"]
    assert plan["updates"] == 10
    assert plan["rollouts"] == 10 * 2 * 2
    assert plan["recoveries"] == 10 * 1 * 2
    assert plan["rehearsal"]["rollouts"] == 4
    assert plan["rehearsal"]["faults"] == []
    assert plan["memory"]["optimizer"] == 2 * plan["memory"]["weights"] == 2 * 4 * plan["parameters"]
    assert list(Path().iterdir()) == []


def test_the_plan_can_be_read(model: Path) -> None:
    result = train(model, "--dry-run")
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert list(lines) == [
        "tasks",
        "updates",
        "rollouts",
        "tokens",
        "parameters",
        "memory",
        "time",
        *("rehearsal", "caution", "advice"),
    ]
    assert "0% right" in lines["rehearsal"]
    assert "`fission sft`" in lines["advice"]
    assert "estimate" in lines["memory"]


def test_the_plan_says_what_the_offline_variant_explores_before_the_first_update(model: Path) -> None:
    plan = told(train(model, "--dry-run", "--json", "--arm", "fission-offline", steps=3))["plan"]
    assert plan["collection"]["contexts"] == 3 * 1
    assert 0 < plan["collection"]["rollouts"] <= plan["collection"]["most"]
    lines = dict(
        line.split(maxsplit=1) for line in train(model, "--dry-run", "--arm", "fission-offline").stdout.splitlines()
    )
    assert "contexts of the starting weights" in lines["pool"]
    assert told(train(model, "--dry-run", "--json"))["plan"]["collection"] is None


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(model: Path) -> None:
    def interrupt() -> None:
        while not Path("run/metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = train(model, "--output", "run", steps=100_000)
    thread.join()
    assert result.exit_code == 130
    assert "continue with: fission train --resume --output run" in result.stdout
    steps = len(numbers(Path("run")))
    checkpoint = RunFolder(Path("run")).latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == f"step-{steps}"


def test_the_second_ctrl_c_ends_the_process_at_once() -> None:
    code = (
        "import os, signal\n"
        "from fission_grpo.run.interruption import Interruption\n"
        "with Interruption() as asked:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('going on:', asked(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while True: signal.pause()\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == -signal.SIGINT
    assert found.stdout == "going on: True\n"
    assert "once more to quit at once" in found.stderr


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_both_signals_leave_a_command_through_its_with_blocks(tmp_path: Path, number: str) -> None:
    """A world of the user's stops the process while it is imported: nothing has been written by then."""
    (tmp_path / "own.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{number})\nsignal.pause()\n")
    command = ["train", "--model", "nano", "environments.own=own:World", "--output", "run"]
    found = subprocess.run(
        [sys.executable, "-m", "fission_grpo.cli", *command], capture_output=True, text=True, check=False
    )
    assert found.returncode == 130
    assert found.stderr.splitlines()[-1] == "fission: stopped; what is finished is kept"
    assert "Traceback" not in found.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["own.py"]


def test_after_a_run_ctrl_c_is_what_it_was_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as asked:
        assert not asked()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_just_cannot_be_interrupted() -> None:
    heard: list[bool] = []

    def run() -> None:
        with Interruption() as asked:
            heard.append(asked())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert heard == [False]


def test_an_evaluation_counts_what_it_played(model: Path) -> None:
    asked = ("--model", model, "--output", "ev", "--size", "3", "--validation", "--json", *SMALL)
    result = fission("eval", "heldout", *asked)
    found = told(result)
    assert found["episodes"]["final"]["total"] == 3
    assert list(found["episodes"]) == [  # since version 0.1
        *("first_call", "first_attempt", "final", "error", "err", "clean", "ncr@1", "ncr@3", "repeat", "abandon"),
        *("cut_off", "false_success", "gave_up", "cut_short"),
    ]
    assert list(found["episodes"]["final"]) == ["count", "total", "value", "low", "high"]
    assert found["mixed"]["probe"]["total"] == 3
    assert "transfer" not in found  # the validation split has none
    assert len(list(read_jsonl(Path("ev/episodes.jsonl")))) == 3


def test_an_evaluation_can_be_read(model: Path) -> None:
    result = fission("eval", "heldout", "--model", model, "--output", "ev", "--size", "3", *SMALL)
    assert result.exit_code == 0, result.stderr
    for title in ("Held-out episodes", "never trained on", "all kinds of errors", "unmet preconditions"):
        assert title in result.stdout


def test_the_next_command_that_training_prints_works_as_printed(model: Path) -> None:
    printed = train(model, "--output", "runs/mine", "--lora.rank", "2").stdout
    _, _, command = printed.strip().partition("evaluate it with: fission ")
    assert command == "eval heldout --run runs/mine"
    found = fission(*shlex.split(command), "--size", "3")
    assert found.exit_code == 0, found.stderr
    by_hand = fission("eval", "heldout", "--model", "runs/mine/policy", "--output", "ev", "--size", "3", *SMALL)
    assert by_hand.exit_code == 0, by_hand.stderr
    for part in PARTS:
        assert Path(f"runs/mine/evaluation/{part}.jsonl").read_bytes() == Path(f"ev/{part}.jsonl").read_bytes()
    asked = json.loads(Path("runs/mine/evaluation/settings.json").read_text())
    policy = str(Path("runs/mine/policy").resolve())
    assert (asked["model"], asked["size"], asked["rollouts"]["max_tokens"]) == (policy, 3, 8)


def test_what_is_typed_wins_over_the_run(model: Path) -> None:
    assert train(model, "--output", "run", steps=1).exit_code == 0
    asked = ("eval", "heldout", "--run", "run", "--size", "3", "--validation")
    typed = fission(*asked, "--model", model, "--output", "ev", "rollouts.max_tokens=9")
    assert typed.exit_code == 0, typed.stderr
    settings = json.loads(Path("ev/settings.json").read_text())
    assert (settings["model"], settings["rollouts"]["max_tokens"], settings["rollouts"]["max_turns"]) == (
        str(model),
        9,
        2,
    )
    assert not Path("run/evaluation").exists()


def test_a_run_on_tasks_of_its_own_is_evaluated_on_ours(model: Path) -> None:
    write_tasks("own.jsonl", synthesise(0, 2, apis=("TwitterAPI",)))
    assert train(model, "data=own.jsonl", "--output", "run", steps=1).exit_code == 0
    asked = ("eval", "heldout", "--run", "run", "--size", "3", "--validation")
    assert fission(*asked).exit_code == 0
    assert "leave data out" in fission(*asked, "data=own.jsonl").stderr


def test_a_run_that_cannot_be_evaluated_says_what_to_do(model: Path) -> None:
    assert train(model, "--output", "run", steps=1).exit_code == 0
    Path("run/policy").rename("elsewhere")
    for command in (("heldout",), ("bfcl",), ("probes",), ("tau2",), ("tasks", "own.jsonl")):
        unfinished = fission("eval", *command, "--run", "run")
        assert (unfinished.exit_code, unfinished.stdout) == (2, "")
        assert "run has no trained policy yet; finish it with: fission train --resume --output run" in unfinished.stderr
        assert "elsewhere is no run folder" in fission("eval", *command, "--run", "elsewhere").stderr
        assert "give --run RUN, or both --model MODEL and --output FOLDER" in fission("eval", *command).stderr


def test_our_own_evaluation_replaces_none_by_other_settings(model: Path) -> None:
    asked = ("eval", "heldout", "--model", model, "--output", "ev", "--validation", *SMALL)
    first = fission(*asked, "--size", "3")
    assert first.exit_code == 0, first.stderr
    assert fission(*asked, "--size", "3").stdout == first.stdout
    other = fission(*asked, "--size", "4")
    assert (other.exit_code, "other settings (size)" in other.stderr) == (2, True)
    Path("ev/complete.json").unlink()  # stopped before it was whole: begun with these settings, and theirs
    assert "other settings (size)" in fission(*asked, "--size", "4").stderr
    assert fission(*asked, "--size", "3").stdout == first.stdout


def test_an_evaluation_takes_its_folder_once_all_prompts_fit_and_before_it_plays(model: Path) -> None:
    asked = ("eval", "heldout", "--model", model, "--output", "ev", "--validation", "--size", "3", *SMALL)
    no_room = fission(*asked, "rollouts.max_tokens=100000")
    assert (no_room.exit_code, Path("ev").exists()) == (2, False)
    events: list[str] = []

    def script(prompt: str) -> str:
        events.append("played")
        return "Done."

    policy = ScriptedPolicy(chat().renderer.tokenizer, script, eos_id=chat().eos_id)
    player = Player(policy=policy, chat=chat(), environments=ENVIRONMENTS, rollouts=RolloutSettings())
    player.play(synthesise(0, 2, apis=("TwitterAPI",)), begin=lambda: events.append("taken"))
    assert (events[0], set(events[1:])) == ("taken", {"played"})


def test_an_evaluation_of_version_0_1_is_never_replaced(model: Path) -> None:
    asked = ("--model", model, "--output", "ev", *SMALL)
    assert fission("eval", "heldout", *asked, "--validation", "--size", "3").exit_code == 0
    Path("ev/settings.json").unlink()
    write_tasks("own.jsonl", synthesise(0, 2, apis=("TwitterAPI",)))
    before = {path.name: path.read_bytes() for path in Path("ev").iterdir()}
    for command in (("heldout", "--validation", "--size", "3"), ("tasks", "own.jsonl")):
        refused = fission("eval", *command, *asked)
        assert (refused.exit_code, refused.stderr.count("version 0.1")) == (2, 1)
    assert {path.name: path.read_bytes() for path in Path("ev").iterdir()} == before


def test_tasks_of_ones_own_have_a_folder_of_their_own(model: Path) -> None:
    assert train(model, "--output", "run", steps=1).exit_code == 0
    write_tasks("own.jsonl", synthesise(0, 2, apis=("TwitterAPI",)))
    write_tasks("other.jsonl", synthesise(1, 2, apis=("TwitterAPI",)))
    heldout = ("eval", "heldout", "--run", "run", "--validation", "--size", "3")
    assert fission(*heldout).exit_code == 0
    before = {path.name: path.read_bytes() for path in Path("run/evaluation").iterdir()}
    mixed_up = fission("eval", "tasks", "own.jsonl", "--run", "run", "--output", "run/evaluation")
    assert (mixed_up.exit_code, "was begun with other settings" in mixed_up.stderr) == (2, True)
    assert {path.name: path.read_bytes() for path in Path("run/evaluation").iterdir()} == before

    own = ("eval", "tasks", "own.jsonl", "--run", "run")
    first = fission(*own, "--json")
    assert told(first)["final"]["total"] == 2
    assert {path.name for path in Path("run/tasks").iterdir()} == {
        *("settings.json", "provenance.jsonl", "complete.json", "episodes.jsonl", "mixed.jsonl", "precondition.jsonl")
    }
    assert fission(*own, "--json").stdout == first.stdout
    asked, policy = json.loads(Path("run/tasks/settings.json").read_text()), str(Path("run/policy").resolve())
    assert (asked["tasks"], asked["model"], asked["rollouts"]["max_tokens"]) == (2, policy, 8)
    other = fission("eval", "tasks", "other.jsonl", "--run", "run")
    assert (other.exit_code, "other settings (fingerprint)" in other.stderr) == (2, True)
    assert "other settings (tasks" not in fission(*own, "--output", "elsewhere", "rollouts.max_tokens=9").stderr
    both = fission("compare", "run", "elsewhere")
    assert (both.exit_code, "give one of them: run/evaluation or run/tasks" in both.stderr) == (2, True)
    compared = told(fission("compare", "run/tasks", "elsewhere", "--json"))
    assert [(one["part"], one["entries"]) for one in compared["contrasts"]] == [
        *(("episodes", 2), ("mixed", 2), ("precondition", 1))
    ]
    Path("run/evaluation").rename("aside")
    assert told(fission("compare", "run", "elsewhere", "--json"))["contrasts"] == [
        {**one, "baseline": "run"} for one in compared["contrasts"]
    ]


def test_a_file_of_settings_changes_the_runs_own_key_by_key(model: Path) -> None:
    assert train(model, "--output", "run", steps=1).exit_code == 0
    write_tasks("own.jsonl", synthesise(0, 2, apis=("TwitterAPI",)))
    Path("more.yaml").write_text("rollouts: {max_turns: 3}\nprecision: fp32\n", encoding="utf-8")
    for command in (("heldout", "--size", "3", "--validation"), ("tasks", "own.jsonl")):
        asked = ("eval", *command, "--run", "run", "--config", "more.yaml")
        assert fission(*asked, "--output", f"{command[0]}-ev").exit_code == 0
        rollouts = json.loads(Path(f"{command[0]}-ev/settings.json").read_text())["rollouts"]
        assert (rollouts["max_tokens"], rollouts["max_turns"]) == (8, 3)
        refused = fission(*asked, "--recipe", "nano")
        assert (refused.exit_code, "leave out --recipe" in refused.stderr) == (2, True)
    Path("more.yaml").write_text("data: own.jsonl\n", encoding="utf-8")
    assert "leave data out" in fission("eval", "heldout", "--run", "run", "--config", "more.yaml").stderr


def test_demonstrations_are_learned(model: Path) -> None:
    arguments = ("--demonstrations", "4", "--steps", "6", "--learning-rate", "0.03", "--json", *SMALL)
    found = told(fission("sft", "--model", model, "--output", "taught", *arguments))
    assert found["last_loss"] < found["first_loss"] - 0.5
    assert (found["demonstrations"], found["clean"]) == (4, 36)
    assert load_policy_model(found["policy"]).name == str(Path("taught/policy").resolve())


def test_a_warm_start_is_shown_no_error(model: Path) -> None:
    arguments = ("--demonstrations", "0", "--clean", "8", "--steps", "1", "--json", *SMALL)
    found = told(fission("sft", "--model", model, "--output", "warm", *arguments))
    assert (found["demonstrations"], found["clean"]) == (0, 8)


def conversations(path: str, count: int) -> None:
    """So many different ones."""
    asked = ({"messages": [{"role": "user", "content": f"Close {n}."}, DONE_MESSAGE]} for n in range(count))
    Path(path).write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")


DONE_MESSAGE = {"role": "assistant", "content": "Done."}


def test_conversations_of_ones_own_are_learned_and_a_twentieth_is_held_back(model: Path) -> None:
    conversations("own.jsonl", 40)
    arguments = ("--messages", "own.jsonl", "--passes", "2", "--batch", "5", "--learning-rate", "0.03")
    typed = ("sft", "--model", model, "--output", "taught", *arguments, "lora.rank=2")
    plan = told(fission(*typed, "--dry-run", "--json"))["plan"]
    assert not Path("taught").exists()
    result = fission(*typed)
    assert result.exit_code == 0, result.output
    assert "38 dialogues; 2 to validate" in result.stdout
    assert "train it with: fission train --model taught/policy" in result.stdout
    rows = numbers(Path("taught"))
    assert len(rows) == plan["updates"] == 16  # 2 x 38 / 5, rounded up
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert Path("taught/loss.png").exists()
    assert load_policy_model("taught/policy").name == str(Path("taught/policy").resolve())


def test_a_validation_file_is_measured_and_not_learned(model: Path) -> None:
    conversations("own.jsonl", 4)
    conversations("held.jsonl", 3)
    typed = ("--messages", "own.jsonl", "--validation", "held.jsonl", "--steps", "2", "--json")
    found = told(fission("sft", "--model", model, "--output", "own", *typed))
    assert (found["rows"], found["steps"]) == (4, 2)
    assert all("validation_loss" in row for row in numbers(Path("own")))
    write_tasks("tasks.jsonl", synthesise(0, 2, apis=("TwitterAPI",), tools=(2, 3)))
    typed = ("--validation", "tasks.jsonl", "--demonstrations", "0", "--clean", "4", "--steps", "1", "--json", *SMALL)
    found = told(fission("sft", "--model", model, "--output", "gold", *typed))
    assert (found["rows"], "validation_loss" in numbers(Path("gold"))[0]) == (4, True)


def test_ctrl_c_in_a_supervised_run_saves_and_it_goes_on_as_if_nothing_had_been(model: Path) -> None:
    def interrupt() -> None:
        while not Path("run/metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    conversations("own.jsonl", 8)
    typed = ("--messages", "own.jsonl", "--steps", "60", "--batch", "2")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        stopped = fission("sft", "--model", model, "--output", "run", *typed)
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert stopped.exit_code == 130
    assert "continue with: fission sft --resume --output run" in stopped.stdout
    assert "finish it with: fission sft --resume --output run" in fission("eval", "heldout", "--run", "run").stderr
    assert 0 < len(numbers(Path("run"))) < 60
    assert fission("sft", "--resume", "--output", "run").exit_code == 0
    assert fission("sft", "--model", model, "--output", "whole", *typed).exit_code == 0
    assert numbers(Path("run")) == numbers(Path("whole"))
    weights = [Path(f"{run}/policy/model.safetensors").read_bytes() for run in ("run", "whole")]
    assert weights[0] == weights[1]
    again = fission("sft", "--model", model, "--output", "run", *typed)
    assert "run already holds a run; continue it with --resume" in again.stderr


def test_tasks_are_made_and_pass_their_own_check() -> None:
    made = told(
        fission("data", "make", "-o", "new/tasks.jsonl", "--count", "5", "--apis", "TwitterAPI,TicketAPI", "--json")
    )
    assert made["tasks"] == 5
    assert read_tasks("new/tasks.jsonl")[0].id == "train-0-00000"
    checked = fission("data", "check", "new/tasks.jsonl", "--json")
    assert told(checked) == {"file": "new/tasks.jsonl", "ok": True, "tasks": 5, "problems": []}
    assert checked.exit_code == 0


def test_all_problems_of_a_file_are_named_with_their_lines() -> None:
    write_tasks("tasks.jsonl", synthesise(0, 1, apis=("TwitterAPI",)))
    with Path("tasks.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": 3}\nno json\n')
    result = fission("data", "check", "tasks.jsonl")
    assert result.exit_code == 1
    assert "tasks.jsonl: line 2: id: got 3, expected text" in result.stdout
    assert "tasks.jsonl: line 3: is no JSON" in result.stdout


def test_test_entries_in_training_data_are_found() -> None:
    write_tasks("leaked.jsonl", bfcl_entries(BfclCategory.BASE)[:1])
    result = fission("data", "check", "leaked.jsonl", "--json")
    assert result.exit_code == 1
    assert any("same text as multi_turn_base_0" in problem for problem in told(result)["problems"])


def test_a_file_overlaps_with_itself_and_not_with_another_split() -> None:
    write_tasks("train.jsonl", synthesise(0, 4, apis=("TwitterAPI",)))
    write_tasks("validation.jsonl", synthesise(0, 4, apis=("TwitterAPI",), split="validation"))
    assert fission("data", "check", "train.jsonl", "--against", "validation.jsonl").exit_code == 0
    result = fission("data", "check", "train.jsonl", "--against", "train.jsonl")
    assert result.exit_code == 1
    assert "train-0-00000: same text as train-0-00000" in result.stdout


def test_the_doctor_passes_a_safe_template_and_refuses_another(model: Path) -> None:
    good = fission("doctor", model, "--json")
    assert (good.exit_code, told(good)["safe"]) == (0, True)
    Path("template.jinja").write_text(NO_TOOLS, encoding="utf-8")
    bad = fission("doctor", model, "--chat-template", "template.jinja")
    assert bad.exit_code == 1
    assert "fail  tools" in bad.stdout
    assert "--chat-template hermes" in bad.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_told_with_the_place_of_what_is_safe(model: Path) -> None:
    Path("run").mkdir()
    Path("run/traces.jsonl").symlink_to("/dev/full")
    result = train(model, "--output", "run")
    assert result.exit_code == 1
    assert "cannot write run/traces.jsonl: No space left on device; free some space" in result.stderr
    assert "the run so far is in run; continue with: fission train --resume --output run" in result.stderr
    Path("run/traces.jsonl").unlink()
    assert fission("train", "--resume", "--output", "run").exit_code == 0
    assert [line["step"] for line in numbers(Path("run"))] == [0, 1]


def _broken_data(folder: Path) -> None:
    (folder / "broken.jsonl").write_text('{"id": "a"}\n', encoding="utf-8")


def _empty_folder(folder: Path) -> None:
    (folder / "empty").mkdir()


def _old_run(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("model: nano\n", encoding="utf-8")


def _broken_yaml(folder: Path) -> None:
    (folder / "run.yaml").write_text("trainer: [\n", encoding="utf-8")


def _emptied_run(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("", encoding="utf-8")


def _prose(folder: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("Call me Ishmael.\n", encoding="utf-8")


def _broken_evaluation(folder: Path) -> None:
    (folder / "complete.json").write_text("", encoding="utf-8")


def _evaluation_of_nothing(folder: Path) -> None:
    (folder / "complete.json").write_text("{}", encoding="utf-8")


def _evaluation_without_its_records(folder: Path) -> None:
    (folder / "complete.json").write_text('{"episodes": 3}', encoding="utf-8")


def _broken_plan(folder: Path) -> None:
    (folder / "plan.json").write_text('{"model"', encoding="utf-8")


def _broken_settings(folder: Path) -> None:
    (folder / "settings.json").write_text("", encoding="utf-8")


def _broken_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def _plain_file(folder: Path) -> None:
    (folder / "file").write_text("", encoding="utf-8")


def _no_tools(folder: Path) -> None:
    (folder / "plain.jinja").write_text(NO_TOOLS, encoding="utf-8")


def _nothing(folder: Path) -> None:
    """The mistake needs no preparation."""


MISTAKES: tuple[tuple[Callable[[Path], None], Sequence[str], str, str], ...] = (
    (_nothing, ("train", "--model", "smolm2"), "unknown model 'smolm2'", "did you mean 'smollm2'?"),
    (_nothing, ("train", "--model", "Qwen/Qwen3-1.7B"), "unknown model", "hf download"),
    (_empty_folder, ("train", "--model", "empty"), "empty holds no model", "expected config.json"),
    (_nothing, ("train", "--outptu", "x"), "unknown setting outptu", "the nearest is output"),
    (_nothing, ("train", "trainer.lerning_rate=1"), "unknown setting", "trainer.learning_rate"),
    (_nothing, ("train", "--trainer.steps", "ten"), "got 'ten'", "expected a valid integer"),
    (_nothing, ("train", "--seed", "-1"), "Invalid value for '--seed'", "0"),
    (_nothing, ("train", "trainer.seed=-1"), "got -1", "greater than or equal to 0"),
    (_nothing, ("train", "trainer.learning_rate=.inf"), "got inf", "a finite number"),
    (_nothing, ("train", "trainer.beta=.nan"), "got nan", "a finite number"),
    (_nothing, ("train", "--trainer.steps"), "has no value", "expected trainer.steps=VALUE"),
    (_nothing, ("train", "--simulator", "oracle"), "got 'oracle'", "expected 'passthrough', 'static', 'rules'"),
    (_nothing, ("train", "--engine", "trl", "--precision", "bf16"), "rounds small updates", "lora.rank=16"),
    (_nothing, ("train", "--config", "none.yaml"), "none.yaml", "give the path of a YAML file"),
    (_broken_yaml, ("train", "--config", "run.yaml"), "run.yaml is no YAML", "line 2"),
    (_nothing, ("train", "--data", "none.jsonl"), "none.jsonl", "No such file"),
    (_broken_data, ("train", "--data", "broken.jsonl"), "line 1", "missing key 'messages'"),
    (_old_run, ("train", "--output", "old"), "already holds a run", "--resume"),
    (_old_run, ("train", "--output", "old", "--resume", "trainer.seed=1"), "other settings", "choose another --output"),
    (
        _emptied_run,
        ("train", "--output", "old", "--resume"),
        "config.yaml holds no settings",
        "choose another --output",
    ),
    (_nothing, ("train", "--data", "given", "--output", "x"), "x/tasks.jsonl is not there", "set data to a file"),
    (_nothing, ("train", "rollouts.max_tokens=0"), "got 0", "greater than or equal to 1"),
    (_nothing, ("train", "rollouts.max_turns=0"), "got 0", "greater than or equal to 1"),
    (_broken_adapter, ("train", "--model", "."), "adapter_config.json has no key", "save the model anew"),
    (_prose, ("compare", "a.txt", "b.txt"), "a.txt: 1 problem(s) line 1: found 'Call me", "expected a JSON object"),
    (_broken_evaluation, ("compare", ".", "other"), "complete.json is no JSON", "evaluate again"),
    (_evaluation_of_nothing, ("compare", ".", "other"), "complete.json has no key 'episodes'", "evaluate again"),
    (_evaluation_without_its_records, ("compare", ".", "other"), "episodes.jsonl is not there", "evaluate again"),
    (_broken_plan, ("quickstart", "--output", "."), "plan.json is no JSON", "choose another --output"),
    (
        _broken_settings,
        ("eval", "probes", "--model", "nano", "--output", ".", "--resume"),
        "settings.json is no JSON",
        "choose another --output",
    ),
    (_nothing, ("train", "--resume"), "--resume needs the run folder", "--output DIR"),
    (_nothing, ("train", "--resume", "--output", "none"), "none holds no run", "leave out --resume"),
    (_nothing, ("train", "--arm", "fission", "fission.contexts=0"), "fission.contexts is 0", "set fission.contexts=8"),
    (_nothing, ("train", "--arm", "fision"), "'fision' is not one of", "'fission'"),
    (_nothing, ("train", "--recipe", "papers"), "'papers' is not one of", "'paper'"),
    (_nothing, ("train", "--synthetic.apis", "[Twitter]"), "unknown API Twitter", "TwitterAPI"),
    (_nothing, ("data", "make", "-o", "x", "--apis", "MessageAPI"), "held out", "split 'heldout'"),
    (_nothing, ("data", "make", "-o", "x", "--split", "test"), "unknown split 'test'", "train, validation, heldout"),
    (_nothing, ("sft", "--output", "x", "--learning-rate", "0"), "got 0.0", "expected greater than 0"),
    (_nothing, ("sft", "--output", "x", "--learning-rate", "-1"), "got -1.0", "expected greater than 0"),
    (_nothing, ("sft", "--output", "x", "--demonstrations", "0"), "nothing to learn", "ask for --clean 3000"),
    (_nothing, ("sft", "--output", "x", "worlds.shop=shopp:Shop"), "No module named 'shopp'", "correct it there"),
    (
        _nothing,
        ("sft", "--output", "x", "--messages", "own.jsonl"),
        "own.jsonl: 1 problem(s) the file: cannot be read",
        "own.jsonl",
    ),
    (
        _nothing,
        ("sft", "--output", "x", "--messages", "own.jsonl", "--clean", "3"),
        "messages are learned in place of tasks",
        "leave them out",
    ),
    (
        _nothing,
        ("sft", "--output", "x", "--steps", "3", "--passes", "1"),
        "steps and passes both say how long",
        "leave one of them out",
    ),
    (_broken_plan, ("init", "."), ". is there already", "choose another name"),
    (_nothing, ("data", "check"), "data=synthetic is no file", "give a FILE"),
    (_nothing, ("simulator", "train", "r.jsonl", "--output", "x", "epochs=0"), "epochs: got 0", "greater than 0"),
    (_nothing, ("simulator", "train", "r.jsonl", "--output", "x", "epoch=1"), "unknown setting epoch", "epochs, batch"),
    (_nothing, ("quickstart", "--arms", "grpo,ppo"), "unknown arm 'ppo'", "grpo-matched"),
    (_nothing, ("doctor", "nan"), "unknown model 'nan'", "did you mean 'nano'?"),
)


@pytest.mark.parametrize(("prepare", "typed", "cause", "remedy"), MISTAKES, ids=[" ".join(m[1]) for m in MISTAKES])
def test_a_typical_mistake_gets_one_message_with_cause_and_remedy(
    tmp_path: Path, prepare: Callable[[Path], None], typed: Sequence[str], cause: str, remedy: str
) -> None:
    prepare(tmp_path)
    result = fission(*typed)
    assert result.exit_code == 2, result.output
    assert cause in " ".join(result.stderr.split())
    assert remedy in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists()


MISFITS: tuple[tuple[Callable[[Path], None], Sequence[str], str, str], ...] = (
    (_no_tools, ("--chat-template", "plain.jinja"), "tools", "--chat-template hermes"),
    (_nothing, ("--chat-template", "hermess"), "not one of hermes, nano", "path of a Jinja file"),
    (_nothing, ("rollouts.max_tokens=5000",), "leave no room for an answer", "lower rollouts.max_tokens"),
    (_plain_file, ("--output", "file/run"), "cannot write file/run", "choose another --output"),
)


@pytest.mark.parametrize(("prepare", "typed", "cause", "remedy"), MISFITS, ids=[" ".join(m[1]) for m in MISFITS])
def test_parts_that_do_not_fit_are_found_before_the_first_step(
    model: Path, tmp_path: Path, prepare: Callable[[Path], None], typed: Sequence[str], cause: str, remedy: str
) -> None:
    prepare(tmp_path)
    result = train(model, *typed)
    assert result.exit_code == 2, result.output
    assert cause in result.stderr
    assert remedy in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mixed", ["bf16", "fp16"])
def test_mixed_precision_is_refused_before_anything_is_spent(
    model: Path, mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", mixed)
    result = train(model, "--output", "run")
    assert result.exit_code == 2
    assert f"mixed_precision={mixed}" in result.stderr
    assert "precision=bf16" in result.stderr
    assert not Path("run").exists()


def test_an_arm_and_a_simulator_that_contradict_each_other_are_both_named(model: Path) -> None:
    result = train(model, "--arm", "fission", "--simulator", "static", "--output", "run")
    assert result.exit_code == 2
    assert "arm fission means simulator=rules, but simulator=static was asked for" in result.stderr
    Path("static.yaml").write_text("simulator: static\n")
    assert "simulator=static was asked for" in train(model, "--arm", "fission", "--config", "static.yaml").stderr
