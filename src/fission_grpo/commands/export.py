"""A trained policy as a folder that leaves us: one whole model with its template, a card, and how it is served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from transformers import GenerationConfig

from fission_grpo.chat.doctor import Finding, Status, diagnose_template
from fission_grpo.chat.format import ChatFormat
from fission_grpo.config import RunSettings, load_settings
from fission_grpo.errors import ConfigError
from fission_grpo.evaluation.compare_runs import load_run
from fission_grpo.evaluation.heldout import COMPLETE
from fission_grpo.evaluation.records import TRACES
from fission_grpo.files import read_jsonl, read_text
from fission_grpo.models.catalog import Precision, base_of, find_model, load_chat, load_context_window, load_weights
from fission_grpo.models.folder import save_model_folder
from fission_grpo.models.serving import Serving, serving_of, template_name
from fission_grpo.report.model_card import CardEvaluation, CardFacts, policy_card
from fission_grpo.run.folder import RunFolder
from fission_grpo.run.provenance import read_provenance

BEHIND = "-export"
"""Behind the name of a run: where its policy is exported to, unless another folder is given."""
CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A model that anybody can load."""

    folder: Path
    precision: Precision
    serving: Serving
    findings: tuple[Finding, ...]
    """About its chat template."""
    licence: str | None
    evaluations: tuple[str, ...]
    """That its card tells of."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        serving = self.serving
        return {
            **{"folder": str(self.folder), "name": serving.name, "precision": str(self.precision)},
            **{"license": self.licence, "evaluations": list(self.evaluations)},
            **{"vllm": serving.vllm, "gguf": list(serving.gguf), "llama_cpp": serving.llama_cpp or None},
            "ollama": bool(serving.modelfile),
            "notes": [*filter(None, (serving.no_gguf, serving.no_modelfile)), *self._warnings()],
        }

    def _warnings(self) -> Iterator[str]:
        yield from (f"{one.name}: {one.why}. {one.remedy}" for one in self.findings if one.status is not Status.PASS)

    def __str__(self) -> str:
        """What a person is told."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.folder}: {self.serving.name} in {self.precision}, with tokenizer, chat template and {CARD_FILE}"
        yield f"serve it from {self.folder.resolve().parent}:"
        yield f"  {self.serving.vllm}"
        yield from (f"  {line}" for line in (*self.serving.gguf, self.serving.llama_cpp) if line)
        yield from dict.fromkeys(filter(None, (self.serving.no_gguf, self.serving.no_modelfile)))
        yield from self._warnings()
        if not self.evaluations:
            yield "the card has no table of recovery, because the run holds no evaluation"


def export_policy(run: Path, *, output: Path | None = None, precision: Precision | None = None) -> Exported:
    """Write the policy of a run as one whole model; the run and its base model are only read.

    Adapters are merged in fp32, whatever the weights are then kept in.

    Args:
        output: a folder that is not there yet, or is empty; servers call the model by its name. Beside the run unless
            given.
        precision: of the weights; that of the run unless given.

    Raises:
        ConfigError: the folder holds no finished run, `output` is taken, or the base of an adapter is gone.
        DataError: an evaluation in the run is damaged.
    """
    folder = RunFolder(run)
    folder.require_settings()
    settings, policy = load_settings(file=folder.config), str(folder.trained_policy())
    output = output or run.with_name(f"{run.resolve().name}{BEHIND}")
    name = output.resolve().name
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} holds something already, which would be lost; choose another --output")
    precision = precision or settings.precision
    chat, window = load_chat(policy), load_context_window(policy)
    facts = _facts(folder, settings, chat, serving_of(chat, name=name, window=window), precision, window)
    model = load_weights(policy, precision=precision)
    model.generation_config = GenerationConfig(
        bos_token_id=chat.tokenizer.bos_token_id, eos_token_id=chat.eos_id, pad_token_id=chat.pad_id
    )
    save_model_folder(model, chat.tokenizer, output, texts={CARD_FILE: policy_card(facts), **facts.serving.files})
    return Exported(
        folder=output,
        precision=precision,
        serving=facts.serving,
        findings=tuple(facts.findings),
        licence=facts.licence,
        evaluations=tuple(one.name for one in facts.evaluations),
    )


def _facts(
    run: RunFolder, settings: RunSettings, chat: ChatFormat, serving: Serving, precision: Precision, window: int
) -> CardFacts:
    known = read_provenance(run.path)
    base = _base(settings.model)
    steps = sum(1 for _ in read_jsonl(run.metrics)) if run.metrics.exists() else 0
    ours = template_name(chat)
    return CardFacts(
        base=base.name,
        base_id=base.hub,
        licence=base.licence,
        precision=str(precision),
        lora=settings.lora is not None,
        trained=f"{steps:,} steps",
        template=f"`{ours}` of fission-grpo" if ours else "the model's own",
        window=window,
        end=str(chat.tokenizer.convert_ids_to_tokens(chat.eos_id)),
        findings=diagnose_template(chat.tokenizer),
        serving=serving,
        origin=known[0] if known else None,
        evaluations=tuple(_evaluations(run.path)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The model that was trained."""

    name: str
    """Never a path: that tells nobody anything, and may tell too much."""
    hub: str | None = None
    licence: str | None = None


def _base(model: str) -> _Base:
    """As much as this machine still knows."""
    if model in _SHIPPED:
        return _SHIPPED[model]
    name = Path(model).name
    try:
        source = find_model(model)
        hub = None if Path(model).expanduser().exists() else model
        while (below := base_of(source)) is not None:
            source = below
    except ConfigError:
        return _Base(name=name)
    shipped = _SHIPPED.get(source.name)
    return _Base(name=hub or name, hub=hub, licence=shipped.licence if shipped else _licence(source.folder / CARD_FILE))


_SHIPPED: Mapping[str, _Base] = MappingProxyType(
    {
        "nano": _Base(name="nano", licence="apache-2.0"),
        "smollm2": _Base(name="smollm2", hub="HuggingFaceTB/SmolLM2-135M-Instruct", licence="apache-2.0"),
    }
)
"""The models that have names here."""


def _licence(card: Path) -> str | None:
    """What a model's card says in its front matter."""
    if not card.is_file():
        return None
    _, fence, rest = read_text(card).partition("---\n")
    try:
        told = yaml.safe_load(rest.partition("\n---")[0]) if fence else None
    except yaml.YAMLError:
        return None
    licence = told.get("license") if isinstance(told, dict) else None
    return licence if isinstance(licence, str) else None


def _evaluations(run: Path) -> Iterator[CardEvaluation]:
    """Those that are finished, or at least begun, in the folder of a run."""
    for place in sorted(run.iterdir()):
        if (place / COMPLETE).is_file() or (place / TRACES).is_file():
            known = read_provenance(place)
            yield CardEvaluation(
                name=place.name, parts=load_run(place), command=known[-1].command_line if known else ""
            )
