"""Supervised fine-tuning of an Error Simulator (arXiv:2601.15625, stage 2) with the Trainer of transformers.

Only the diagnosis is learned; tools, dialogue, failed call and reference are conditions. The outcome is an ordinary
model folder with a card, and a note of how the model wants to be asked.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from fission_grpo.chat.format import ChatFormat
from fission_grpo.errors import ConfigError
from fission_grpo.models.catalog import LoadedModel, Precision, load_policy_model
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.lora import LoraSettings, add_lora
from fission_grpo.policy.local.hf_policy import context_window
from fission_grpo.seeds import derive
from fission_grpo.settings import Settings
from fission_grpo.simulator.model import STYLE_FILE
from fission_grpo.simulator.prompts import Prompt, PromptStyle, prompt_messages, shortened
from fission_grpo.simulator_lab.fresh_base import FRESH, fresh_base
from fission_grpo.simulator_lab.records import RecordSplit, SimulatorRecord
from fission_grpo.simulator_lab.renaming import renamed_records
from fission_grpo.training.copying import COPY_STEPS
from fission_grpo.types import TokenRow

IGNORED = -100
"""The label that transformers leaves out of its loss."""
_PAD_TO = 16
_LOG_EVERY = 20
"""Steps of the practice between two lines about it."""

LossCallback: TypeAlias = Callable[[int, int, float], None]
"""Called with the step, the number of steps, and the loss of the steps since the last call, in nats per token."""


class SimulatorTrainingSettings(Settings):
    """One fine-tuning."""

    model: str = FRESH
    """`fresh` (as small as `nano`, with words and weights of its own), `nano`, `smollm2`, or a Hugging Face folder."""
    precision: Precision = Precision.FP32
    lora: LoraSettings | None = None
    """Train adapters; wanted for anything larger than `nano`."""
    style: PromptStyle = PromptStyle.FINDINGS
    seed: int = 0
    copies: int = Field(default=4, ge=0)
    """How often each record is learned under made-up names besides its own, each time other ones. Ours."""
    epochs: float = Field(default=1.5, gt=0)
    batch: int = Field(default=16, ge=1)
    accumulation: int = Field(default=1, ge=1)
    """Batches of one update."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak; for adapters of a pretrained model 2e-4 is usual."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps."""
    longest: int = Field(default=1024, ge=64)
    """Most tokens of a row; longer ones lose their early dialogue, then are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a fine-tuning did."""

    folder: Path
    rows: int
    """Records and their copies."""
    left_out: int
    """Rows that did not fit."""
    steps: int
    loss: float
    """Mean over the training, in nats per token."""
    validation: float | None
    """Mean over the validation rows afterwards; None without any."""
    seconds: float


def train_simulator(
    records: Sequence[SimulatorRecord],
    settings: SimulatorTrainingSettings,
    output: Path,
    *,
    progress: LossCallback = lambda step, steps, loss: None,
    log: Callable[[str], None] = lambda line: None,
) -> Fit:
    """Fine-tune on the records of the training split and save the model.

    Args:
        log: called with what is done before the first step; that takes minutes where there are thousands of records.

    Raises:
        ConfigError: no such model, no training record, or none that fits.
    """
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another folder")
    learned = _of(records, RecordSplit.TRAIN)
    log(f"other names: {settings.copies} sets for each of {len(learned):,} records")
    learned += renamed_records(learned, copies=settings.copies, seed=settings.seed)
    log(f"base model: {settings.model}")
    loaded = _base(learned, settings, log)
    log(f"tokens of {len(learned):,} records")
    longest = min(settings.longest, context_window(loaded.model.config))
    train = _rows(learned, loaded.chat, settings.style, longest)
    if not train:
        raise ConfigError(f"no record of split train fits {longest} tokens; give more records, or raise `longest`")
    model = loaded.model
    if settings.lora is not None:
        model = add_lora(model, settings.lora, seed=derive(settings.seed, "lora"))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="simulator-") as scratch:
        trainer = _trainer(model, train, settings, Path(scratch), pad_id=loaded.chat.pad_id, progress=progress)
        outcome = trainer.train()
        held = _rows(_of(records, RecordSplit.VALIDATION), loaded.chat, settings.style, longest)
        validation = trainer.evaluate(_Rows(held))["eval_loss"] if held else None
    fit = Fit(
        folder=output,
        rows=len(train),
        left_out=len(learned) - len(train),
        steps=outcome.global_step,
        loss=outcome.training_loss,
        validation=validation,
        seconds=time.monotonic() - began,
    )
    style = json.dumps({"style": settings.style.value}) + "\n"
    texts = {STYLE_FILE: style, "README.md": model_card(settings, records, fit)}
    save_model_folder(model, loaded.chat.tokenizer, output, texts=texts)
    return fit


def _base(
    learned: Sequence[SimulatorRecord], settings: SimulatorTrainingSettings, log: Callable[[str], None]
) -> LoadedModel:
    def report(step: int, loss: float) -> None:
        if (step + 1) % _LOG_EVERY == 0:
            log(f"practice in copying: {step + 1} of {COPY_STEPS} steps, loss {loss:.2f}")

    if settings.model == FRESH and learned:
        return fresh_base(learned, settings.style, seed=derive(settings.seed, FRESH), report=report)
    return load_policy_model(settings.model, precision=settings.precision)


def training_row(record: SimulatorRecord, *, chat: ChatFormat, style: PromptStyle, longest: int) -> TokenRow | None:
    """Prompt and target text as tokens; None where they do not fit."""
    whole = prompt_messages(Prompt(case=record.case(), place=0), style)
    said = (*chat.renderer.encode(record.target_text()), chat.eos_id)
    for shown in (whole, shortened(whole)):
        ids = chat.prompt(shown.messages, shown.tools)
        if len(ids) + len(said) <= longest:
            return TokenRow(ids=(*ids, *said), trained=(False,) * len(ids) + (True,) * len(said))
    return None


def _of(records: Sequence[SimulatorRecord], split: RecordSplit) -> list[SimulatorRecord]:
    return [record for record in records if record.split is split]


def _rows(records: Sequence[SimulatorRecord], chat: ChatFormat, style: PromptStyle, longest: int) -> list[TokenRow]:
    rows = (training_row(record, chat=chat, style=style, longest=longest) for record in records)
    return [row for row in rows if row is not None]


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as the Trainer takes them; with their lengths, so that like goes with like."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self._rows[place]
        labels = [id_ if trained else IGNORED for id_, trained in zip(row.ids, row.trained, strict=True)]
        return {"input_ids": list(row.ids), "labels": labels, "length": len(row.ids)}


def _padded(pad_id: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]:
    """Rows of one batch side by side, padded on the right."""

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        width = -(-longest // _PAD_TO) * _PAD_TO
        ids = [row["input_ids"] + [pad_id] * (width - len(row["input_ids"])) for row in rows]
        labels = [row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in rows]
        seen = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "attention_mask": torch.tensor(seen),
        }

    return collate


class _Reports(TrainerCallback):  # type: ignore[misc]
    """Passes the Trainer's log on."""

    def __init__(self, progress: LossCallback) -> None:
        self._progress = progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if logs and "loss" in logs:
            self._progress(state.global_step, state.max_steps, float(logs["loss"]))


def _trainer(
    model: Any,
    rows: Sequence[TokenRow],
    settings: SimulatorTrainingSettings,
    scratch: Path,
    *,
    pad_id: int,
    progress: LossCallback,
) -> Any:
    """The Trainer of transformers with nothing but the training switched on.

    Args:
        scratch: its output folder, which stays empty.
    """
    updates = max(1, round(settings.epochs * len(rows) / (settings.batch * settings.accumulation)))
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * updates),
        weight_decay=0.01,
        seed=settings.seed,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=_Rows(rows),
        data_collator=_padded(pad_id),
        callbacks=[_Reports(progress)],
    )
    trainer.pop_callback(_printing())
    return trainer


def _printing() -> type[Any]:
    from transformers.trainer_callback import PrinterCallback  # progress is ours to show

    printer: type[Any] = PrinterCallback
    return printer


def model_card(settings: SimulatorTrainingSettings, records: Sequence[SimulatorRecord], fit: Fit) -> str:
    """What the model is, what it learned from and how well it fits; an audit says what it is good for."""
    split = Counter((str(record.split), record.api) for record in records)
    teachers = Counter(record.teacher for record in _of(records, RecordSplit.TRAIN))
    taught = ", ".join(f"{teacher} ({count})" for teacher, count in sorted(teachers.items()))
    apis = "\n".join(f"| {name} | {api} | {count} |" for (name, api), count in sorted(split.items()))
    held = "-" if fit.validation is None else f"{fit.validation:.3f}"
    base = "" if settings.model == FRESH else f"base_model: {settings.model}\n"
    adapted = "all weights" if settings.lora is None else f"LoRA of rank {settings.lora.rank}"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{base}tags: [tool-calling, error-simulator, fission-grpo]
---

# An Error Simulator

Turns a failed tool call into the message that a runtime would give back (arXiv:2601.15625, stage 2). It is shown the
reference call and must not give it away: check every message with `fission_grpo.simulator.leak`, as
`LeakGuardedSimulator` does, and measure with `fission simulator audit`.

- Base model: `{settings.model}`, {adapted} trained, prompt style `{settings.style}`
- Records by {taught}, each learned under its own names \
and under {settings.copies} other sets of names: {fit.rows} rows, {fit.left_out} too long
- {fit.steps} updates in {fit.seconds:.0f} s, learning rate {settings.learning_rate:g}, seed {settings.seed}
- Loss in nats per token: {fit.loss:.3f} (mean over the training), {held} (validation APIs, afterwards)

| split | API | records |
|---|---|---|
{apis}

## Use

    fission train --recipe nano simulator=model simulator_model.model=FOLDER

## Limits

It writes what such errors look like, not what really happened: where a world answers, its own words are better. It has
seen the APIs above and short dialogues.
"""
