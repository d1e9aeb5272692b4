"""A local model as simulator: asked, read, trained, saved, audited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from simulator_cases import EXPLICIT, SILENT
from small_records import records
from tiny_policies import chat, scripted

from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import load_policy_model
from fission_grpo.models.lora import LoraSettings
from fission_grpo.simulator.base import Fallback
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.model import ModelSimulatorSettings, ModelWriter, model_simulator, style_of
from fission_grpo.simulator.passthrough import PassthroughSimulator
from fission_grpo.simulator.prompts import PromptStyle
from fission_grpo.simulator.rules import RulesSimulator
from fission_grpo.simulator_lab.audit import audit, audit_of, misleads, said_class, template
from fission_grpo.simulator_lab.finetune import SimulatorTrainingSettings, train_simulator, training_row
from fission_grpo.simulator_lab.fresh_base import fresh_tokenizer
from fission_grpo.simulator_lab.records import RecordSplit, SimulatorRecord
from fission_grpo.simulator_lab.side_by_side import FREE, side_by_side
from fission_grpo.types import ErrorClass, ToolCall


def writer(*answers: str, window: int = 1 << 20, max_tokens: int = 64) -> ModelWriter:
    return ModelWriter(
        scripted(*answers, window=window), chat(), style=PromptStyle.INSTRUCTED, max_tokens=max_tokens, batch=2
    )


def test_a_model_writes_the_feedback() -> None:
    guarded = LeakGuardedSimulator(writer("cd: no folder of this name"))
    feedback = guarded.diagnose_cases([EXPLICIT, SILENT, EXPLICIT])
    assert [one.texts[0] for one in feedback] == [
        "cd: no folder of this name",
        "None\ncd: no folder of this name",
        "cd: no folder of this name",
    ]
    assert all(one.cost.tokens and one.cost.prompt_tokens for one in feedback)


@pytest.mark.parametrize(
    ("answer", "window", "reason"),
    [("", 1 << 20, Fallback.EMPTY), ("on and on " * 40, 1 << 20, Fallback.EMPTY), ("x", 80, Fallback.TOO_LONG)],
)
def test_silence_babble_and_a_window_too_small_fall_back(answer: str, window: int, reason: Fallback) -> None:
    (feedback,) = LeakGuardedSimulator(writer(answer, window=window)).diagnose_cases([EXPLICIT])
    assert (feedback.origin, feedback.fallback) == ("rules", reason)


def test_training_rows_learn_the_diagnosis_alone() -> None:
    loaded = load_policy_model("nano")
    record = records()[0]
    row = training_row(record, chat=loaded.chat, style=PromptStyle.COMPACT, longest=2048)
    assert row is not None
    said = [token for token, trained in zip(row.ids, row.trained, strict=True) if trained]
    assert loaded.chat.decode(said) == record.target_text()
    assert training_row(record, chat=loaded.chat, style=PromptStyle.COMPACT, longest=16) is None


def test_every_error_text_can_be_written_with_nanos_vocabulary() -> None:
    tokenizer = load_policy_model("nano").tokenizer
    texts = [record.diagnosis for record in records()] + ["ünïcödé ✓ 漢字"]
    assert all(tokenizer.decode(tokenizer(text)["input_ids"]) == text for text in texts)


def few(count: int) -> list[SimulatorRecord]:
    return [one for one in records() if one.split is RecordSplit.TRAIN][:count]


QUICK = SimulatorTrainingSettings(model="nano", copies=0, epochs=10, batch=4, warmup=0.0, longest=400)


def test_a_trained_simulator_is_an_ordinary_folder_that_knows_how_to_be_asked(tmp_path: Path) -> None:
    seen: list[float] = []
    fit = train_simulator(few(4), QUICK, tmp_path / "simulator", progress=lambda step, steps, loss: seen.append(loss))
    assert (fit.rows, fit.left_out, fit.steps, fit.validation) == (4, 0, 10, None)
    assert seen
    assert style_of(fit.folder) is PromptStyle.FINDINGS
    card = (fit.folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers")
    assert "| train | TicketAPI | 4 |" in card
    guarded = model_simulator(ModelSimulatorSettings(model=str(fit.folder), max_tokens=16))
    assert len(guarded.diagnose_cases([one.case() for one in few(2)])) == 2
    with pytest.raises(ConfigError, match="not empty"):
        train_simulator(few(4), QUICK, fit.folder)
    with pytest.raises(ConfigError, match="no record of split train"):
        train_simulator([], QUICK, tmp_path / "other")


def test_adapters_are_trained_saved_alone_and_merged_when_asked(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"lora": LoraSettings(rank=2), "epochs": 10, "learning_rate": 2e-2})
    fit = train_simulator(few(4), settings, tmp_path / "adapter")
    assert (fit.folder / "adapter_model.safetensors").exists()
    assert not (fit.folder / "model.safetensors").exists()
    assert "LoRA of rank 2" in (fit.folder / "README.md").read_text(encoding="utf-8")
    learned, base = load_policy_model(str(fit.folder)).model, load_policy_model("nano").model
    layer = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(learned.state_dict()[layer], base.state_dict()[layer])
    assert style_of(fit.folder) is PromptStyle.FINDINGS
    guarded = model_simulator(ModelSimulatorSettings(model=str(fit.folder), max_tokens=8))
    assert len(guarded.diagnose_cases([one.case() for one in few(2)])) == 2


def test_copies_under_other_names_are_learned_beside_the_records(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"copies": 2, "epochs": 0.25})
    assert train_simulator(few(4), settings, tmp_path / "simulator").rows == 12


def test_a_fresh_base_spells_the_words_of_its_records_in_fewer_tokens() -> None:
    tokenizer = fresh_tokenizer(few(8), PromptStyle.FINDINGS)
    text = "Error during execution: name 'do_ticket' is not defined"
    assert len(tokenizer(text)["input_ids"]) < len(load_policy_model("nano").tokenizer(text)["input_ids"])
    assert tokenizer.decode(tokenizer("ünïcödé ✓")["input_ids"]) == "ünïcödé ✓"


def test_the_audit_finds_the_rules_without_fault() -> None:
    report = audit(RulesSimulator(), records())
    assert report.leak.successes == 0
    assert report.right_class.value >= 0.95
    assert report.right_field.value >= 0.90
    assert report.harmful.value < 0.1
    assert dict(report.table())["leaks"].startswith("0.0 %")
    assert report.plain()["records"] == len(records())


def test_the_audit_finds_the_worlds_own_words_faithful_and_blind_ones_not() -> None:
    real = audit(PassthroughSimulator(), records())
    blind = audit(PassthroughSimulator(), records(), worldless=True)
    assert real.exact.value == real.same_template.value == real.likeness.value == 1.0
    assert blind.exact.successes == 0
    assert blind.right_class.value < 0.2


def test_a_leak_is_audited_as_it_was_written_and_as_it_was_replaced() -> None:
    record = next(one for one in records() if one.error is ErrorClass.UNKNOWN_TOOL)
    due = ToolCall(name=record.reference[0].name, arguments={"description": "zebra crossing"})
    told = audit(LeakGuardedSimulator(writer("use 'zebra crossing'")), [replace(record, reference=(due,))])
    candidates = told.candidates
    assert candidates is not None
    assert candidates.leak.successes == candidates.leak_by_kind["string"].successes == 1
    assert candidates.leak_by_kind["tool"].successes == 0
    assert (candidates.leak_examples[0].literal, candidates.leak_examples[0].text) == (
        "zebra crossing",
        "use 'zebra crossing'",
    )
    assert (told.leak.successes, told.right_class.successes, told.fallbacks) == (0, 1, {"leak": 1})
    assert dict(told.table())["candidates: leaks"].startswith("100.0 %")


def test_what_a_model_did_not_write_is_no_candidate() -> None:
    failed = audit(LeakGuardedSimulator(writer("")), records()[:3])
    assert failed.candidates is not None
    assert (failed.candidates.records, failed.records, dict(failed.fallbacks)) == (0, 3, {"empty": 3})
    assert audit(RulesSimulator(), records()[:3]).candidates is None
    assert audit_of("nobody", []).records == 0


def test_texts_are_read_for_their_class() -> None:
    assert said_class('{"error": "User not authenticated."}') is ErrorClass.PRECONDITION
    assert said_class("error: unknown tool 'x'; the nearest tools are 'y'") is ErrorClass.UNKNOWN_TOOL
    assert said_class("error: missing argument 'a' (a string)") is ErrorClass.ARGUMENT_SCHEMA
    assert said_class("The call succeeded, but it was the wrong one.") is ErrorClass.SILENT
    assert said_class("hello") is None


def test_texts_that_differ_in_names_and_numbers_alone_have_one_template() -> None:
    one = "Error during execution: TicketAPI.close() got an unexpected keyword argument 'a'"
    other = "Error during execution: TradingBot.buy() got an unexpected keyword argument 'b'"
    assert template(one) == template(other) != template("Error during execution: name 'b' is not defined")


def test_a_text_misleads_when_all_it_suggests_or_blames_is_wrong() -> None:
    record = next(one for one in records() if one.error is ErrorClass.UNKNOWN_TOOL)
    right = record.reference[0].name
    assert misleads("unknown tool; did you mean 'nothing_like_it'?", record)
    assert not misleads(f"unknown tool; the nearest tools are 'nothing_like_it', '{right}'", record)


def test_all_free_simulators_are_tried_side_by_side() -> None:
    trials = side_by_side(EXPLICIT, (*FREE, LeakGuardedSimulator(writer("try archive"))))
    assert [trial.simulator for trial in trials] == ["passthrough", "static", "rules", "model"]
    assert not any(trial.leaks for trial in trials)
    assert "fallback: leak" in next(trials[-1].lines())
