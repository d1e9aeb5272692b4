"""verl's agent loop: its server samples, token in, token out; a world of ours answers, in a Ray worker."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from fission_grpo.algorithm.groups import Member
from fission_grpo.engines.player import DialoguePlayer, packed_member

START = "fission_start"
"""Field of a row that holds what to play."""
MEMBER = "fission_member"
"""Extra field of a finished row that holds what became of it."""


class FissionLoop(AgentLoopBase):  # type: ignore[misc]  # verl is untyped where this is checked
    """One dialogue a session."""

    @abstractmethod
    def player(self) -> DialoguePlayer:
        """Worlds and judge of the run, made once in each process."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Play one row to its end. What the world breaks is masked by the dialogue, and never raised to verl, which
        would give up the whole group."""
        player, step = self.player(), int(row["global_steps"]) - 1
        sampling = {
            **sampling_params,
            "max_tokens": player.rollouts.max_tokens,
            # Nothing ends a message but the end of a turn, as in our own sampler.
            "ignore_eos": True,
            "stop_token_ids": [player.chat.eos_id],
        }
        request, versions = uuid4().hex, [step]
        play = await asyncio.to_thread(player.begin, row[START])
        while (context := play.dialogue.context) is not None:
            sampled = await self.server_manager.generate(
                request_id=request, prompt_ids=list(context), sampling_params=dict(sampling)
            )
            if (version := sampled.extra_fields.get("global_steps")) is not None:
                versions.append(int(version))
            await asyncio.to_thread(play.dialogue.advance, player.completion(sampled.token_ids, sampled.log_probs))
        steps = max(int(self.config.actor_rollout_ref.actor.optim.total_training_steps), 1)
        member = await asyncio.to_thread(player.judged, play, progress=min(step / steps, 1.0))
        return output_of(member, versions=versions[1:] or versions, eos_id=player.chat.eos_id)


def output_of(member: Member, *, versions: list[int], eos_id: int) -> AgentLoopOutput:
    """A judged trajectory as verl's row: one that is spoiled weighs nothing, since no token of it is trained.

    Args:
        versions: of the weights that sampled each message.
        eos_id: stands for the response of a dialogue without any; verl wants one token.
    """
    trajectory, cut = member.trajectory, member.trajectory.prompt
    ids = trajectory.ids[cut:] or (eos_id,)
    trained = () if member.reward is None else trajectory.sampled[cut:]
    logprobs = trajectory.logprobs[cut:]
    return AgentLoopOutput(
        prompt_ids=list(trajectory.ids[:cut]),
        response_ids=list(ids),
        response_mask=[int(one) for one in trained] or [0] * len(ids),
        response_logprobs=list(logprobs) or [0.0] * len(ids),
        reward_score=0.0 if member.reward is None else member.reward.total,
        num_turns=2 * len(trajectory.turns),
        metrics=AgentLoopMetrics(),
        extra_fields={
            MEMBER: packed_member(member),
            "global_steps": versions[-1],
            "min_global_steps": min(versions),
            "max_global_steps": max(versions),
            "reward_extra_info": {"acc": float(member.success)},
        },
    )
