"""Settings: three sources, one tree, and errors that say what to do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import fission_grpo
from fission_grpo.algorithm.reward_functions import FunctionRewards
from fission_grpo.algorithm.rewards import DecisionReward, EpisodeReward
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.client.endpoint import EndpointSettings
from fission_grpo.config import (
    RunSettings,
    SimulatorName,
    load_settings,
    read_overrides,
    read_yaml,
    setting_names,
    written_names,
)
from fission_grpo.engines.settings import EngineSettings
from fission_grpo.errors import ConfigError
from fission_grpo.foreign_names import NAME_HERE, NOT_HERE
from fission_grpo.models.lora import LoraSettings
from fission_grpo.recipes import Exploration, Recipe, load_recipe
from fission_grpo.recipes.arms import EXPLORATION, Arm, apply_arm
from fission_grpo.recipes.resolve import recipe
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.settings import Settings, with_current_names
from fission_grpo.simulator.endpoint import EndpointSimulatorSettings
from fission_grpo.simulator.model import ModelSimulatorSettings
from fission_grpo.tasks.training_set import SyntheticSettings
from fission_grpo.training.settings import SftSettings, TrainerSettings


def settings_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides=read_overrides(arguments))
    return str(caught.value)


def test_the_command_line_beats_the_file_and_the_file_beats_the_recipe(tmp_path: Path) -> None:
    base = RunSettings(trainer=TrainerSettings(steps=1, queries=2, group_size=3))
    file = settings_file(tmp_path, "trainer:\n  queries: 20\n  group_size: 30\n")
    settings = load_settings(base=base, file=file, overrides=read_overrides(["trainer.group_size=300"]))
    assert (settings.trainer.steps, settings.trainer.queries, settings.trainer.group_size) == (1, 20, 300)


@pytest.mark.parametrize(
    "arguments",
    [
        ["trainer.learning_rate=1e-5"],
        ["--trainer.learning_rate", "1e-5"],
        ["--trainer.learning_rate=1e-5"],
        ["--trainer.learning-rate", "0.00001"],
    ],
)
def test_an_override_may_be_written_as_in_any_other_tool(arguments: list[str]) -> None:
    assert load_settings(overrides=read_overrides(arguments)).trainer.learning_rate == 1e-5


def test_an_optional_section_comes_and_goes() -> None:
    with_lora = load_settings(overrides=read_overrides(["lora.rank=4"]))
    assert with_lora.lora == LoraSettings(rank=4)
    assert load_settings(base=with_lora, overrides=read_overrides(["lora=null"])).lora is None
    assert load_settings(base=with_lora, overrides=read_overrides(["lora.alpha=8"])).lora == LoraSettings(
        rank=4, alpha=8
    )


def test_a_former_name_is_still_read(tmp_path: Path) -> None:
    written = settings_file(tmp_path, "worlds: {library: shop:Library}\n")
    assert load_settings(file=written).environments == {"library": "shop:Library"}
    both = load_settings(file=written, overrides=read_overrides(["environments.library=other:Library"]))
    assert both.environments == {"library": "other:Library"}
    assert complaint("worlds.library=3") == ("environments.library (command line): got 3, expected a valid string")


@pytest.mark.parametrize("written", ["synthetic.moments=true", "synthetic={moments: true}", "--synthetic.moments=true"])
def test_a_former_name_may_stand_inside_a_section(written: str) -> None:
    assert load_settings(overrides=read_overrides([written])).synthetic.decision_positions
    kept = {"data": {1: "one"}, "moments": False}  # neither this name elsewhere nor a key that is no text is touched
    assert with_current_names(kept) == kept


def test_saved_settings_are_the_same_settings(tmp_path: Path) -> None:
    settings = RunSettings(output="here", simulator=SimulatorName.STATIC, lora=LoraSettings(targets=("q_proj",)))
    file = settings_file(tmp_path, yaml.safe_dump(settings.saved()))
    assert load_settings(file=file, overrides=read_overrides(["output=here"])) == settings


@pytest.mark.parametrize("recipe", Recipe)
def test_every_recipe_can_be_saved_and_read_back(recipe: Recipe, tmp_path: Path) -> None:
    settings = load_recipe(recipe)
    assert load_settings(file=settings_file(tmp_path, yaml.safe_dump(settings.saved()))) == settings


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert read_yaml(settings_file(tmp_path, "# nothing yet\n")) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &x [1]\ntrainer: *x", "aliases are not read; write the value out"),
        ("trainer: " + "[" * 200 + "]" * 200, "nested deeper than 128 levels"),
        ("trainer: " + "[" * 100_000, "nested deeper than 128 levels"),
        ("trainer: !!python/object/apply:os.getpid []", "could not determine a constructor"),
        ("trainer: {steps: 2020-99-01}", "month must be in 1..12"),
    ],
)
def test_yaml_from_anybody_is_plain_and_shallow(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.yaml is no YAML: .*{why}"):
        read_yaml(settings_file(tmp_path, text))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fission_grpo.files.MAX_FILE", 20)
    with pytest.raises(ConfigError, match="it has more than 20 bytes"):
        read_yaml(settings_file(tmp_path, "trainer: {steps: 3}  # as ever\n"))


def test_an_error_names_the_line_of_the_file(tmp_path: Path) -> None:
    file = settings_file(tmp_path, "model: nano\ntrainer:\n  steps: 3\n  lerning_rate: 1.0\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(file=file)
    assert str(caught.value) == (
        "unknown setting trainer.lerning_rate (run.yaml line 4); the nearest is trainer.learning_rate"
    )


def test_all_problems_are_named_at_once() -> None:
    found = complaint("trainer.steps=many", "simulator=rule", "rolouts.max_tokens=3").splitlines()
    assert sorted(found) == [
        "simulator (command line): got 'rule', expected 'passthrough', 'static', 'rules', 'model' or 'endpoint'",
        "trainer.steps (command line): got 'many', expected a valid integer",
        "unknown setting rolouts.max_tokens (command line); the nearest is rollouts.max_tokens",
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("learning_rate=1", "the nearest is trainer.learning_rate"),
        ("trainer.max_tokens=1", "or rollouts.max_tokens"),
        ("simulator=endpoint", "set simulator_endpoint.server.url"),
        ("fision.contexts=1", "the nearest is fission.contexts"),
        ("trainer.steps=0", "got 0, expected greater than or equal to 1"),
        ("trainer=3", "got 3, expected a valid dictionary"),
        ("trainer.steps.more=3", "trainer.steps is a value, not a section"),
        ("decision.format_weight=[1]", "decision.format_weight (command line)"),
        ("synthetic.apis=[TradingBott]", "unknown API TradingBott; expected some of TradingBot"),
        ("synthetic.calls=[1.0, 1.0, 0.0]", "shares must lie in [0, 1]"),
        ("episode.verdict=0.1", "verdict must outweigh"),
        ("fission.trigger=99", "more than the buffer can hold"),
        ("trainer.steps=", "got None, expected a valid integer"),
        ("model=[", "is no YAML value"),
        ("--trainer.steps", "has no value; expected trainer.steps=VALUE"),
        ("steps", "has no value; expected steps=VALUE"),
    ],
)
def test_a_mistake_gets_its_cause_and_its_remedy(written: str, expected: str) -> None:
    assert expected in complaint(written)


@pytest.mark.parametrize("engine", ["trl", "verl"])
def test_weights_in_bf16_are_trained_by_our_own_loop_or_not_at_all(engine: str) -> None:
    whole = load_settings(overrides=read_overrides(["precision=bf16"]))
    assert (whole.precision, whole.lora) == ("bf16", None)
    told = complaint("precision=bf16", f"engine={engine}")
    assert f"rounds small updates of the weights away in engine {engine}" in told
    assert "choose precision=fp32 with engine.autocast=true" in told


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            "--num_generations=8",
            "num_generations (command line); the nearest by meaning is trainer.group_size",
        ),
        ("--max-completion-length=8", "the nearest by meaning is rollouts.max_tokens"),
        ("--per_device_train_batch_size=8", "the nearest by meaning is trainer.queries"),
        ("actor_rollout_ref.rollout.n=8", "the nearest by meaning is trainer.group_size"),
        ("data.train_batch_size=8", "the nearest by meaning is trainer.queries"),
        ("actor_rollout_ref.model.path=x", "the nearest by meaning is model"),
        ("algorithm.kl_ctrl.kl_coef=0.1", "the nearest by meaning is trainer.beta"),
        ("beta=0.1", "the nearest is trainer.beta"),
        ("report_to=wandb", "trackers"),
        ("run_name=mine", "metrics.jsonl"),
        ("num_train_epochs=3", "trainer.steps"),
        ("trainer.total_epochs=3", "trainer.steps"),
        ("--bf16", "choose precision=fp32 or precision=bf16"),
        ("--use_vllm", "the nearest by meaning is engine.vllm"),
        ("--n_gpus_per_node=8", "the nearest by meaning is engine.gpus"),
        ("--deepspeed=zero3.json", "the nearest by meaning is engine.sharding"),
        ("trainer.save_freq=3", "the nearest by meaning is trainer.checkpoint_every"),
        ("rollouts.max_new_tokens=8", "the nearest by meaning is rollouts.max_tokens"),
        ("simulator_model.path=x", "the nearest is simulator_model."),
        ("fission.batch_size=8", "the nearest is fission."),
        ("fission.epochs=8", "the nearest is fission."),
    ],
)
def test_names_of_other_libraries_are_answered_by_meaning(written: str, expected: str) -> None:
    said = complaint(written)
    assert said.startswith("unknown setting ")
    assert expected in said


def test_what_has_a_name_elsewhere_exists_here_under_another() -> None:
    ours = set(setting_names())
    assert set(NAME_HERE.values()) <= ours
    assert not {name.rpartition(".")[2] for name in ours} & (NAME_HERE.keys() | NOT_HERE.keys())
    mentioned = {word.strip(",;.*") for said in NOT_HERE.values() for word in said.split() if "." in word.strip(",;.*")}
    assert {word.partition("=")[0] for word in mentioned} - ours <= {"metrics.jsonl", "traces.jsonl"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "holds no settings"),
        ("a: [1\n", "is no YAML"),
        ("model: !!python/name:os.system\n", "is no YAML"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_settings(file=settings_file(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_settings(file=tmp_path / "none.yaml")


# The arms: 3 contexts of G' = 4 are 12 rollouts, which is 2 groups of G = 6.
BUDGET = RunSettings(
    trainer=TrainerSettings(queries=5, group_size=6), fission=FissionSettings(contexts=3, group_size=4)
)


def rollouts_of_a_step(settings: RunSettings) -> int:
    explored = settings.trainer.queries * settings.trainer.group_size
    return explored + settings.fission.contexts * settings.fission.group_size


def test_the_matched_arm_spends_the_whole_fission_budget_on_exploration() -> None:
    matched = apply_arm(Arm.GRPO_MATCHED, BUDGET)
    assert matched.fission.contexts == 0
    assert rollouts_of_a_step(matched) == rollouts_of_a_step(BUDGET) == 42
    assert apply_arm(Arm.GRPO_MATCHED, matched) == matched


def test_plain_grpo_only_leaves_fission_out() -> None:
    plain = apply_arm(Arm.GRPO, BUDGET)
    assert plain.trainer == BUDGET.trainer
    assert rollouts_of_a_step(plain) == 30


@pytest.mark.parametrize(
    ("arm", "simulator"),
    [
        (Arm.FISSION, SimulatorName.RULES),
        (Arm.FISSION_STATIC, SimulatorName.STATIC),
        (Arm.FISSION_PASSTHROUGH, SimulatorName.PASSTHROUGH),
    ],
)
def test_fission_arms_differ_in_nothing_but_who_writes_the_feedback(arm: Arm, simulator: SimulatorName) -> None:
    assert apply_arm(arm, BUDGET) == BUDGET.model_copy(update={"simulator": simulator})


def test_the_offline_arm_differs_in_where_its_contexts_come_from() -> None:
    """As many as the run may use, unless the user says how many."""
    offline = apply_arm(Arm.FISSION_OFFLINE, BUDGET)
    most = BUDGET.trainer.steps * BUDGET.fission.contexts
    assert offline.model_copy(update={"fission": BUDGET.fission}) == apply_arm(Arm.FISSION, BUDGET)
    assert offline.fission == BUDGET.fission.model_copy(update={"pool": most})
    assert apply_arm(Arm.FISSION, offline) == apply_arm(Arm.FISSION, BUDGET)

    fewer = BUDGET.model_copy(update={"fission": BUDGET.fission.model_copy(update={"pool": 7})})
    assert apply_arm(Arm.FISSION_OFFLINE, fewer, written={"fission.pool"}) == fewer
    with pytest.raises(ConfigError, match=r"arm fission means fission\.pool=0, but fission\.pool=7 was asked for"):
        apply_arm(Arm.FISSION, fewer, written={"fission.pool"})


def test_the_offline_arm_has_no_deeper_levels() -> None:
    deeper = BUDGET.model_copy(update={"fission": BUDGET.fission.model_copy(update={"depth": 2})})
    with pytest.raises(ConfigError, match=r"set fission\.depth=1"):
        apply_arm(Arm.FISSION_OFFLINE, deeper)


def test_the_mixed_arm_spends_the_whole_fission_budget_on_whole_turns() -> None:
    mixed = apply_arm(Arm.GRPO_MIXED, BUDGET)
    assert (mixed.trainer.queries, mixed.trainer.turn_queries) == (5, 2)
    assert (mixed.trainer.horizon, mixed.fission.contexts) == (Horizon.CALL, 0)


def test_a_token_matched_arm_needs_to_know_how_many() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.sampled_tokens is 0; set it to the sum of `generate/sampled`"):
        apply_arm(Arm.GRPO_TOKENS, BUDGET)
    told = BUDGET.model_copy(update={"trainer": BUDGET.trainer.model_copy(update={"sampled_tokens": 900})})
    assert apply_arm(Arm.GRPO_TOKENS, told) == apply_arm(Arm.GRPO_MATCHED, told)
    assert apply_arm(Arm.GRPO_DECISION_TOKENS, told) == apply_arm(Arm.GRPO_DECISION, told)


@pytest.mark.parametrize("arm", [arm for arm in Arm if EXPLORATION[arm] is not Exploration.EPISODES])
def test_the_arms_of_the_paper_explore_the_same_decision_points(arm: Arm) -> None:
    told = BUDGET.model_copy(update={"trainer": BUDGET.trainer.model_copy(update={"sampled_tokens": 900})})
    armed = apply_arm(arm, told)
    assert armed.synthetic.decision_positions
    assert armed.trainer.horizon is Horizon.CALL
    assert armed.fission.horizon is (Horizon.TURN if arm is Arm.FISSION_DECISION_TURN else Horizon.CALL)


@pytest.mark.parametrize("arm", Arm)
def test_a_recipe_has_sizes_of_its_own_for_the_paper_s_arms(arm: Arm) -> None:
    """In every arm of a family the same ones: a comparison is of nothing else. What is written wins."""
    sizes = {
        Exploration.EPISODES: (60, 10 * 8 + 4 * 8, "grpo_unscaled"),
        Exploration.DECISIONS: (120, 8 * 8 + 8 * 8, "grpo"),
        Exploration.MIXED: (120, 8 * 8 + 8 * 8, "grpo_unscaled"),
    }
    tokens = {"trainer.sampled_tokens": 900}
    settings = recipe("nano", tokens, arm=arm)
    rollouts = rollouts_of_a_step(settings) + settings.trainer.turn_queries * settings.trainer.group_size
    steps, most, objective = sizes[EXPLORATION[arm]]
    assert (settings.trainer.steps, settings.trainer.objective) == (steps, objective)
    assert rollouts == (settings.trainer.queries * 8 if arm in (Arm.GRPO, Arm.GRPO_DECISION_PLAIN) else most)
    told = recipe("nano", {**tokens, "trainer.steps": 7, "trainer.objective": "dapo"}, arm=arm).trainer
    assert (told.steps, told.objective) == (7, "dapo")


def test_the_paper_recovers_by_single_calls() -> None:
    """Whoever asks for something else is told which arm that is not."""
    asked = load_settings(base=BUDGET, overrides=read_overrides(["fission.horizon=turn"]))
    with pytest.raises(ConfigError, match=r"arm fission-decision means fission\.horizon=call"):
        apply_arm(Arm.FISSION_DECISION, asked, written={"fission.horizon"})
    assert apply_arm(Arm.FISSION_DECISION_TURN, asked, written={"fission.horizon"}).fission.horizon is Horizon.TURN


def test_the_paper_explores_every_place_of_a_dialogue() -> None:
    with pytest.raises(ConfigError, match=r"arm fission-decision means synthetic\.decision_positions=True"):
        recipe("nano", {"synthetic.decision_positions": False}, arm="fission-decision")


def test_an_arm_that_makes_no_sense_of_a_setting_says_so() -> None:
    """No traceback: a pool of 50 lets the trigger be 40, and fresh failures have a buffer of 32."""
    pooled = load_settings(base=BUDGET, overrides=read_overrides(["fission.pool=50", "fission.trigger=40"]))
    with pytest.raises(ConfigError, match="trigger 40 is more than the buffer can hold"):
        apply_arm(Arm.FISSION_STATIC, pooled)


def test_a_budget_that_cannot_be_matched_is_refused() -> None:
    uneven = BUDGET.model_copy(update={"fission": FissionSettings(contexts=1, group_size=4)})
    with pytest.raises(ConfigError, match="no whole number of groups of 6"):
        apply_arm(Arm.GRPO_MATCHED, uneven)


def test_a_fission_arm_without_contexts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set fission\.contexts=8"):
        apply_arm(Arm.FISSION, RunSettings())


def test_the_names_of_what_was_written_reach_into_sections() -> None:
    given = read_overrides(["simulator=static", "trainer={steps: 3, horizon: turn}", "lora=null"])
    assert written_names(given) == {"simulator", "trainer.steps", "trainer.horizon", "lora"}


STATIC_TURN = BUDGET.model_copy(
    update={
        "simulator": SimulatorName.STATIC,
        "trainer": BUDGET.trainer.model_copy(update={"horizon": Horizon.TURN}),
    }
)


@pytest.mark.parametrize(
    ("arm", "written", "expected"),
    [
        (Arm.FISSION, "simulator", "arm fission means simulator=rules, but simulator=static was asked for"),
        (
            Arm.FISSION_DECISION,
            "trainer.horizon",
            r"arm fission-decision means trainer\.horizon=call, but trainer\.horizon=turn was asked for",
        ),
    ],
)
def test_an_arm_does_not_pass_over_what_the_user_wrote(arm: Arm, written: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        apply_arm(arm, STATIC_TURN, written={written})
    assert apply_arm(arm, STATIC_TURN).simulator is SimulatorName.RULES  # a recipe's own choice is not the user's


@pytest.mark.parametrize("arm", [Arm.FISSION_STATIC, Arm.GRPO_MATCHED, Arm.GRPO])
def test_an_arm_that_agrees_or_does_not_care_is_taken(arm: Arm) -> None:
    assert apply_arm(arm, STATIC_TURN, written={"simulator", "trainer.horizon"}).simulator is SimulatorName.STATIC


OWNERS: dict[type[Settings], set[str]] = {
    RunSettings: {"settings", "self"},
    TrainerSettings: {"settings", "trainer"},
    SftSettings: {"sft", "self"},
    RolloutSettings: {"rollouts"},
    FissionSettings: {"settings", "fission"},
    SyntheticSettings: {"synthetic", "self"},
    LoraSettings: {"settings"},
    DecisionReward: {"self"},
    EpisodeReward: {"self"},
    FunctionRewards: {"rewards", "self"},
    ModelSimulatorSettings: {"settings"},
    EndpointSimulatorSettings: {"settings"},
    EndpointSettings: {"settings", "server"},
    EngineSettings: {"engine", "self"},
}
"""What an object of each class is called where its fields are read."""


def reads() -> set[tuple[str, str]]:
    """Every (name of the object, attribute) that the package reads."""
    package = Path(fission_grpo.__file__).parent
    return {read for path in package.rglob("*.py") for read in attribute_reads(path.read_text(encoding="utf-8"))}


def attribute_reads(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            yield name, node.attr


def test_every_setting_is_read_somewhere() -> None:
    read = reads()
    dead = [
        f"{kind.__name__}.{name}"
        for kind, owners in OWNERS.items()
        for name in kind.model_fields
        if not any((owner, name) in read for owner in owners)
    ]
    assert dead == []
    assert ("settings", "no_such_setting") not in read


def test_the_dead_key_test_knows_every_settings_class() -> None:
    named = {name for name in setting_names() if "." in name}
    counted = sum(len(kind.model_fields) for kind in OWNERS if kind is not RunSettings)
    assert len(named) == counted


def test_a_step_is_the_whole_run_s_and_shared_out_among_processes() -> None:
    whole = load_settings(
        overrides=read_overrides(
            [
                "trainer.queries=8",
                "trainer.turn_queries=4",
                "fission.contexts=8",
                "fission.trigger=8",
                "fission.pool=16",
            ]
        )
    )
    assert whole.share_of(1) is whole
    each = whole.share_of(4)
    assert (each.trainer.queries, each.trainer.turn_queries, each.trainer.group_size) == (2, 1, 8)
    assert (each.fission.contexts, each.fission.trigger, each.fission.capacity, each.fission.pool) == (2, 2, 8, 4)
    with pytest.raises(
        ConfigError, match=r"trainer\.queries=8 cannot be shared out among 3 processes; choose a multiple"
    ):
        whole.share_of(3)
    with pytest.raises(ConfigError, match=r"fission\.contexts=6 cannot be shared out among 4 processes"):
        load_settings(overrides=read_overrides(["fission.contexts=6"])).share_of(4)


def test_what_folders_of_earlier_versions_do_not_know_goes_without_saying_at_its_default() -> None:
    usual = RunSettings().saved()
    assert not {"chat_template_kwargs", "trackers", "engine"} & usual.keys()
    assert not {"max_rows", "gap_warning", "gap_stops"} & usual["trainer"].keys()
    assert "max_prompt" not in usual["rollouts"]
    asked = ["trainer.max_rows=4", "chat_template_kwargs.enable_thinking=false", "rollouts.max_prompt=99"]
    other = load_settings(overrides=read_overrides([*asked, "trackers=[wandb]", "fission.keep_reasoning=false"]))
    saved = other.saved()
    assert (saved["trainer"]["max_rows"], saved["rollouts"]["max_prompt"]) == (4, 99)
    assert (saved["chat_template_kwargs"], saved["trackers"]) == ({"enable_thinking": False}, ["wandb"])
    assert saved["fission"]["keep_reasoning"] is False
    assert RunSettings.model_validate(saved) == other
