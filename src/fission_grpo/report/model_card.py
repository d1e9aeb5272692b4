"""The README.md of an exported model: what it is, how it copes with errors, how it is served, where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from fission_grpo.chat.doctor import Finding, Status
from fission_grpo.evaluation.paired import EvaluatedArm
from fission_grpo.evaluation.records import EpisodeRecord
from fission_grpo.models.serving import MODELFILE, VLLM_TOOL_PARSER, Serving
from fission_grpo.report.page.runs import PART_TITLES, metrics_for
from fission_grpo.report.tables import metrics_table
from fission_grpo.run.provenance import Provenance

CITED = "arXiv:2601.15625"
_HEX = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEvaluation:
    """One evaluation in the folder of the run."""

    name: str
    """Of its folder."""
    parts: Mapping[str, Sequence[EpisodeRecord]]
    command: str = ""
    """That played it; empty where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What the card of one model says."""

    base: str
    """Name of the model that was trained, never a path."""
    base_id: str | None
    """On the hub, where it is known to be one."""
    licence: str | None
    """Of the base, as its own card names it; None where nothing on this machine says so."""
    precision: str
    lora: bool
    trained: str
    """How, in half a sentence."""
    template: str
    """Which chat template it carries, in words."""
    window: int
    end: str
    """The token that ends a message."""
    findings: Sequence[Finding]
    """About the template."""
    serving: Serving
    origin: Provenance | None
    """Of the run; None where it is older than that."""
    evaluations: Sequence[CardEvaluation] = field(default_factory=tuple)


def policy_card(facts: CardFacts) -> str:
    """Markdown with the front matter that a hub reads."""
    return f"---\n{_front_matter(facts)}---\n\n" + "\n".join(
        [
            f"# {facts.serving.name}\n",
            *_about(facts),
            "## How it copes with errors\n",
            *_recovery(facts),
            "## Serve it\n",
            *_serve(facts),
            "## Where it comes from\n",
            *_origin(facts),
        ]
    )


def _front_matter(facts: CardFacts) -> str:
    told: dict[str, Any] = {
        **({"license": facts.licence} if facts.licence else {}),
        **({"base_model": facts.base_id} if facts.base_id else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["fission-grpo", "tool-calling", "error-recovery", "reinforcement-learning"],
    }
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _about(facts: CardFacts) -> Iterator[str]:
    how = f"LoRA, merged in fp32 and kept in {facts.precision}" if facts.lora else f"all weights, in {facts.precision}"
    yield (
        f"`{facts.base}` after {facts.trained} with Fission-GRPO ({CITED}): reinforcement learning that teaches a "
        f"tool-calling model to recover from its own tool errors. Trained were {how}."
    )
    yield ""
    licence = (
        f"`{facts.licence}`, that of the base model" if facts.licence else "not known here: that of the base model"
    )
    yield f"- License: {licence}."
    yield f"- Chat template and tokenizer: {facts.template}, as trained. A message ends with `{facts.end}`."
    yield f"- Context: {facts.window:,} tokens."
    yield "- `generation_config.json` names end and padding tokens and nothing else: whoever samples chooses how.\n"


def _recovery(facts: CardFacts) -> Iterator[str]:
    if not facts.evaluations:
        yield "The run held no evaluation when this card was written; `fission eval heldout --run RUN` makes one.\n"
    for one in facts.evaluations:
        for part, records in one.parts.items():
            if records:
                arm = EvaluatedArm(name=facts.serving.name, runs={0: tuple(records)})
                yield f"{PART_TITLES.get(part, part)} (`{one.name}`):\n"
                yield metrics_table([arm], metrics_for(records))
        if one.command:
            yield f"Played by `{one.command}`.\n"
    if facts.evaluations:
        yield "Cells: share, 95 % interval, count. One training run: another seed may come out differently.\n"


def _serve(facts: CardFacts) -> Iterator[str]:
    serving = facts.serving
    yield "In the folder above this one. vLLM:\n"
    yield f"    {serving.vllm}\n"
    yield (
        f"Calls are JSON between `<tool_call>` tags, which vLLM's parser `{VLLM_TOOL_PARSER}` reads. Of a message with "
        "a malformed call it gives the text alone: tell the model of the error, as training did.\n"
    )
    if serving.llama_cpp:
        yield "llama.cpp, with its own converter (its repository and `pip install gguf`):\n"
        yield "".join(f"    {line}\n" for line in (*serving.gguf, serving.llama_cpp))
        yield "`--jinja` renders this template and reads its calls; without it there are no tools.\n"
    else:
        yield f"No GGUF: {serving.no_gguf}\n"
    if serving.modelfile:
        yield f"Ollama, from the same GGUF and the `{MODELFILE}` in this folder, copied beside it:\n"
        yield f"    ollama create {serving.name} -f {MODELFILE}\n"
        yield (
            "Ollama's templates write JSON in another way, and arguments in alphabetical order: its prompts are near "
            "to those of training, not equal to them. Measure before you trust it.\n"
        )
    elif not serving.no_gguf:
        yield f"No {MODELFILE}: {serving.no_modelfile}\n"
    for finding in facts.findings:
        if finding.status is not Status.PASS:
            yield f"- *{finding.name}*: {finding.why}. {finding.remedy}\n"


def _origin(facts: CardFacts) -> Iterator[str]:
    told = facts.origin
    if told is None:
        yield "The run is older than `provenance.jsonl`: it is not known.\n"
        return
    yield f"- Trained by `{told.command_line}`, begun {told.started}."
    yield f"- With {', '.join(f'{name} {version}' for name, version in told.versions.items())}."
    if told.commits:
        yield f"- Commits: {', '.join(f'{name} {commit}' for name, commit in told.commits.items())}."
    if (inputs := told.inputs) is not None:
        hashes = {**inputs.files, "chat template": inputs.template, "tasks": inputs.tasks_hash}
        shown = ", ".join(f"{name} {digest[:_HEX]}" for name, digest in hashes.items() if digest)
        yield f"- SHA-256 of what went in: {shown}."
    yield ""
