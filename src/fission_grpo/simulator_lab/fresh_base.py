"""`fresh`: a model of nano's shape with words of its own, made from nothing but the records that it will learn from.

Ours. `nano` has been warmed up on gold dialogues: its vocabulary takes error texts to pieces, and the names that it can
copy are those of its own world (of random tokens it copies 0.2 %). A fresh model with the same planted circuit,
practised on random tokens, copies 99 % of them, and in a vocabulary trained on error texts rows are little more than
half as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerFast

from fission_grpo.chat.format import ChatFormat
from fission_grpo.models.catalog import LoadedModel
from fission_grpo.models.nano import build_tokenizer, fresh_model
from fission_grpo.simulator.prompts import Prompt, PromptStyle, prompt_messages
from fission_grpo.simulator_lab.records import SimulatorRecord
from fission_grpo.training.copying import sharpen_copying

FRESH = "fresh"


def fresh_base(
    records: Sequence[SimulatorRecord],
    style: PromptStyle,
    *,
    seed: int,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> LoadedModel:
    """Tokenizer from the prompts and target texts, weights from the seed, then the practice in copying: some minutes.

    Args:
        report: told the step of the practice and its loss.
    """
    tokenizer = fresh_tokenizer(records, style)
    model = fresh_model(tokenizer, seed=seed)
    sharpen_copying(model, seed=seed, report=report)
    return LoadedModel(model=model, chat=ChatFormat(tokenizer), name=FRESH)


def fresh_tokenizer(records: Sequence[SimulatorRecord], style: PromptStyle) -> PreTrainedTokenizerFast:
    """A byte-level BPE of what is asked and what is learned."""
    return build_tokenizer(_text(record, style) for record in records)


def _text(record: SimulatorRecord, style: PromptStyle) -> str:
    asked = prompt_messages(Prompt(case=record.case(), place=0), style)
    return "\n".join([*(str(message.get("content") or "") for message in asked.messages), record.target_text()])
