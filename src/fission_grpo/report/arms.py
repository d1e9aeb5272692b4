"""The arms in words, for whoever has not read the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fission_grpo.report.results import DEMONSTRATIONS, WARM_START


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmWords:
    """One arm, for a sentence and for a line of its own."""

    trained: str
    """What follows "a policy trained with"."""
    line: str
    """What it is; without the final stop."""


ARM_WORDS: Mapping[str, ArmWords] = {
    WARM_START: ArmWords(
        trained="no reinforcement", line="the model that every arm starts from, without reinforcement"
    ),
    DEMONSTRATIONS: ArmWords(
        trained="demonstrations of errors and their fixes",
        line="the warm start fine-tuned on demonstrations of errors and their fixes among clean dialogues; no "
        "reinforcement, and it sees right answers that no other arm is shown",
    ),
    "grpo": ArmWords(
        trained="plain GRPO in whole dialogues and without the additional rollouts",
        line="GRPO in whole dialogues, without fission and without anything in its place: it spends less",
    ),
    "grpo-matched": ArmWords(
        trained="plain GRPO in whole dialogues at the same rollout budget",
        line="GRPO in whole dialogues; the rollouts that fission may use go into more tasks a step",
    ),
    "grpo-tokens": ArmWords(
        trained="plain GRPO in whole dialogues at the same token budget",
        line="GRPO in whole dialogues; as many tasks a step as keep to the tokens that a run with fission sampled",
    ),
    "grpo-decision": ArmWords(
        trained="plain GRPO on single messages at the same rollout budget",
        line="GRPO on single messages (the paper's exploration), without ever seeing a tool's answer to them; the "
        "rollouts that fission may use go into more tasks a step",
    ),
    "grpo-decision-tokens": ArmWords(
        trained="plain GRPO on single messages at the same token budget",
        line="grpo-decision, kept to the tokens that a run with fission sampled instead of its rollouts",
    ),
    "grpo-decision-plain": ArmWords(
        trained="plain GRPO on single messages without the additional rollouts",
        line="grpo-decision without the additional rollouts: it spends less",
    ),
    "grpo-mixed": ArmWords(
        trained="plain GRPO on single messages and whole turns at the same rollout budget",
        line="grpo-decision, but the rollouts that fission may use go into whole turns, without fission",
    ),
    "fission": ArmWords(
        trained="Fission-GRPO in whole dialogues",
        line="GRPO in whole dialogues, and recoveries sampled from its failures",
    ),
    "fission-decision": ArmWords(
        trained="Fission-GRPO on single messages",
        line="GRPO on single messages (the paper's exploration), and failed messages made again with the error in "
        "sight, judged by the same reference",
    ),
    "fission-decision-turn": ArmWords(
        trained="Fission-GRPO on single messages with recoveries of whole turns",
        line="fission-decision with recoveries that go on to the end of the turn, judged by the world",
    ),
    "fission-static": ArmWords(
        trained="Fission-GRPO with one fixed feedback", line="fission; its feedback is the paper's fixed string"
    ),
    "fission-passthrough": ArmWords(
        trained="Fission-GRPO with the world's own error texts",
        line="fission; its feedback is the world's own error text",
    ),
    "fission-offline": ArmWords(
        trained="Fission-GRPO with failures collected beforehand",
        line="fission; all failures are collected from the starting weights, before training",
    ),
}


def trained_with(arm: str) -> str:
    """What follows "a policy trained with"; an arm without words goes by its name."""
    return ARM_WORDS[arm].trained if arm in ARM_WORDS else arm


def arms_glossary(arms: Iterable[str]) -> str:
    """One line for each arm that has words."""
    return "".join(f"- *{arm}*: {ARM_WORDS[arm].line}.\n" for arm in arms if arm in ARM_WORDS)
