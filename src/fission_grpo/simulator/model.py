"""A local language model as Error Simulator: prompted, or a folder that `fission simulator train` has made.

arXiv:2601.15625, stage 2, has a fine-tuned Qwen3-32B here. Sampling is greedy, so that a run can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from fission_grpo.chat.format import ChatFormat
from fission_grpo.errors import ConfigError
from fission_grpo.files import read_json
from fission_grpo.models.catalog import Precision, find_model, load_policy_model
from fission_grpo.policy.base import Policy, Sampling
from fission_grpo.policy.local.hf_policy import HFPolicy
from fission_grpo.settings import Settings
from fission_grpo.simulator.base import Cost, Fallback
from fission_grpo.simulator.guarded import LeakGuardedSimulator
from fission_grpo.simulator.prompts import (
    Candidate,
    NoCandidate,
    Prompt,
    PromptStyle,
    cleaned,
    prompt_messages,
    shortened,
)
from fission_grpo.types import Completion, FinishReason

STYLE_FILE = "simulator.json"
"""Beside the weights of a trained simulator: how it wants to be asked."""


class ModelSimulatorSettings(Settings):
    """A simulator on this machine."""

    model: str = "nano"
    """`smollm2` or any local Hugging Face folder; one made by `fission simulator train` knows how to be asked."""
    max_tokens: int = Field(default=128, ge=8)
    """Longest diagnosis."""
    batch: int = Field(default=32, ge=1)
    """Prompts answered side by side."""
    precision: Precision = Precision.FP32


class ModelWriter:
    """Answers prompts with a policy."""

    name = "model"
    remote = False

    def __init__(
        self,
        policy: Policy,
        chat: ChatFormat,
        *,
        style: PromptStyle,
        max_tokens: int = 128,
        batch: int = 32,
    ) -> None:
        self.style = style
        self._policy = policy
        self._chat = chat
        self._batch = batch
        self._sampling = Sampling(max_tokens=max_tokens, temperature=0.0)

    def write(self, prompts: Sequence[Prompt]) -> list[Candidate | NoCandidate]:
        """Those that fit the window, in batches of prompts of like length.

        Raises:
            PolicyError: sampling failed.
            ConfigError: the chat template refuses a dialogue.
        """
        prompt_ids = [self._prompt_ids(prompt) for prompt in prompts]
        order = sorted((place for place, ids in enumerate(prompt_ids) if ids), key=lambda place: len(prompt_ids[place]))
        candidates: list[Candidate | NoCandidate] = [NoCandidate(reason=Fallback.TOO_LONG)] * len(prompt_ids)
        for first in range(0, len(order), self._batch):
            places = order[first : first + self._batch]
            for place, candidate in zip(places, self._sample([prompt_ids[place] for place in places]), strict=True):
                candidates[place] = candidate
        return candidates

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Empty where nothing fits."""
        room = self._policy.context_window - self._sampling.max_tokens
        whole = prompt_messages(prompt, self.style)
        for shown in (whole, shortened(whole)):
            ids = self._chat.prompt(shown.messages, shown.tools)
            if len(ids) <= room:
                return ids
        return ()

    def _sample(self, prompt_ids: Sequence[tuple[int, ...]]) -> list[Candidate | NoCandidate]:
        began = time.perf_counter()
        completions = self._policy.generate(prompt_ids, sampling=self._sampling, seed=0)
        share = (time.perf_counter() - began) / len(prompt_ids)
        return [
            self._read(one, Cost(prompt_tokens=len(ids), tokens=len(one.ids), seconds=share))
            for one, ids in zip(completions, prompt_ids, strict=True)
        ]

    def _read(self, completion: Completion, cost: Cost) -> Candidate | NoCandidate:
        text = cleaned(self._chat.decode(completion.ids))
        if completion.finish is FinishReason.LENGTH or not text:
            why = "did not come to an end" if text else "said nothing"
            return NoCandidate(reason=Fallback.EMPTY, detail=why, cost=cost)
        return Candidate(text=text, cost=cost)


def model_simulator(settings: ModelSimulatorSettings) -> LeakGuardedSimulator:
    """The model behind the leak guard, with the fallback below it.

    Raises:
        ConfigError: see `model_writer`.
    """
    return LeakGuardedSimulator(model_writer(settings))


def model_writer(settings: ModelSimulatorSettings) -> ModelWriter:
    """Load the model.

    Raises:
        ConfigError: no such model, or one that cannot carry tools.
    """
    style = style_of(find_model(settings.model).folder)
    loaded = load_policy_model(settings.model, precision=settings.precision)
    policy = HFPolicy(loaded.model, eos_id=loaded.chat.eos_id, pad_id=loaded.chat.pad_id, max_rows=settings.batch)
    return ModelWriter(policy, loaded.chat, style=style, max_tokens=settings.max_tokens, batch=settings.batch)


def style_of(folder: Path) -> PromptStyle:
    """How a model wants to be asked: as it was trained, else in words.

    Raises:
        ConfigError: its note of that cannot be read, or names a style that is unknown.
    """
    file = folder / STYLE_FILE
    if not file.exists():
        return PromptStyle.INSTRUCTED
    remedy = "restore it, or save the model anew with: fission simulator train"
    style = read_json(file, "style", remedy=remedy)["style"]
    if style not in list(PromptStyle):
        raise ConfigError(f"{file} names the style {style!r}, expected one of {', '.join(PromptStyle)}; {remedy}")
    return PromptStyle(style)
