"""Groups of ours as rows of verl's: its advantages and its loss are those of our own trainer."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import FSDPActorConfig

from fission_grpo.algorithm.batch import TrainingBatch
from fission_grpo.algorithm.groups import Group, Member
from fission_grpo.algorithm.losses import DR_GRPO, GRPO, GRPO_UNSCALED, Objective, policy_loss
from fission_grpo.algorithm.rewards import Reward, RewardTerm
from fission_grpo.commands.verl_config import AGGREGATIONS, NO_DUAL_CLIP
from fission_grpo.engines.player import unpacked_member
from fission_grpo.engines.verl.advantages import Scale, row_advantages
from fission_grpo.engines.verl.loop import MEMBER, output_of
from fission_grpo.engines.verl.state import BUFFER_FILE, NEWEST_FILE, newest_step, read_buffer, write_buffer
from fission_grpo.errors import ConfigError
from fission_grpo.rollout import Trajectory
from fission_grpo.types import EndReason, GroupKind, Task

EOS = 9
LONGEST = 6
"""Most tokens of a trajectory, for the objective that divides by it."""
TASK = Task(id="t", messages=({"role": "user", "content": "?"},), tools=())


def member(reward: float | None, length: int) -> Member:
    """Two given tokens, then sampled ones with a tool's reply behind the first."""
    trajectory = Trajectory(
        task=TASK,
        prompt=2,
        ids=(1, 2, *range(3, 3 + length + 1)),
        sampled=(False, False, True, False, *[True] * (length - 1)),
        logprobs=(0.0, 0.0, -0.3, 0.0, *(-0.1 * (place + 1) for place in range(length - 1))),
        given=(),
        turns=(),
        snapshots=(),
        end=EndReason.ANSWERED if reward is not None else EndReason.HARNESS_FAULT,
        verdict=None,
    )
    term = RewardTerm(name="made up", value=reward or 0.0, weight=1.0, why="")
    judged = None if reward is None else Reward(terms=(term,), scale=1.0)
    return Member(trajectory=trajectory, reward=judged, success=reward == 1.0, failure=None)


def group(name: str, rewards: Sequence[float | None], lengths: Sequence[int]) -> Group:
    members = tuple(member(reward, length) for reward, length in zip(rewards, lengths, strict=True))
    return Group(id=name, kind=GroupKind.EXPLORATION, task=TASK, members=members, context=None)


# A group with signal, one of another size with a spoiled trajectory, and one in which all are alike.
GROUPS = [
    group("a", [0.0, 1.0, 0.25, 1.0], [1, 2, 3, 4]),
    group("b", [1.0, None, 0.5], [2, 4, 3]),
    group("c", [0.5, 0.5], [5, 1]),
]
PADDING = 3


class Rows:
    """The groups' rows as verl's trainer has them, right-padded, with padding rows of its own behind: [B, T]."""

    def __init__(self, *, padding: int) -> None:
        outputs = [output_of(one, versions=[0], eos_id=EOS) for each in GROUPS for one in each.members]
        width = max(len(one.response_ids) for one in outputs)
        rows = len(outputs) + padding
        self.mask = torch.zeros(rows, width, dtype=torch.long)
        self.rewards, self.old = torch.zeros(rows, width), torch.zeros(rows, width)
        for row, one in enumerate(outputs):
            length = len(one.response_ids)
            self.mask[row, :length] = torch.tensor(one.response_mask)
            self.old[row, :length] = torch.tensor(one.response_logprobs)
            self.rewards[row, length - 1] = one.reward_score
        self.names = [each.id for each in GROUPS for _ in each.members] + [GROUPS[0].id] * padding

    def advantages(self, scale: Scale = Scale.STD) -> Tensor:
        by_std = scale is Scale.STD
        return row_advantages(self.rewards, self.mask, self.names, norm_adv_by_std_in_grpo=by_std, config=None)[0]


@pytest.mark.parametrize("scale", Scale)
def test_each_row_has_the_advantage_of_its_own_group(scale: Scale) -> None:
    rows = Rows(padding=PADDING)
    found = rows.advantages(scale)
    expected = torch.cat([each.advantages(scale) for each in GROUPS] + [torch.zeros(PADDING)])
    torch.testing.assert_close(found, expected[:, None] * rows.mask, atol=1e-6, rtol=0)
    if scale is Scale.NONE:  # by hand: b is 1, spoiled, 0.5, of mean 0.75
        assert found[4:7].amax(1).tolist() == [0.25, 0.0, 0.0]
        assert found[6].min() == -0.25


def test_padding_and_spoiled_rows_move_nobody() -> None:
    with_padding, without = Rows(padding=PADDING).advantages(), Rows(padding=0).advantages()
    assert torch.equal(with_padding[: len(without)], without)
    assert not with_padding[len(without) :].any()
    rows = Rows(padding=0)
    before = rows.advantages()
    rows.rewards[5] = 1e3  # of the spoiled one
    assert torch.equal(rows.advantages(), before)


@pytest.mark.parametrize("objective", [GRPO, GRPO_UNSCALED, DR_GRPO], ids=["grpo", "grpo_unscaled", "dr_grpo"])
@pytest.mark.parametrize("padding", [0, PADDING])
def test_its_loss_and_gradient_are_those_of_our_own_trainer(objective: Objective, padding: int) -> None:
    batch = TrainingBatch.of(GROUPS, objective, max_tokens=LONGEST, device=torch.device("cpu"))
    torch.manual_seed(0)
    moved = 0.5 * torch.randn(len(Rows(padding=0).mask), LONGEST)  # what the policy has since come to say otherwise
    ours = torch.zeros(len(moved), requires_grad=True)
    theirs = torch.zeros(len(moved), requires_grad=True)

    kept = [place for place, one in enumerate(Rows(padding=0).advantages(objective.scale)) if one.any()]
    sampled = [moved[place][: int(Rows(padding=0).mask[place].sum())] for place in kept]
    now = torch.nn.utils.rnn.pad_sequence(sampled, batch_first=True) + ours[kept, None]
    width = batch.old_logprobs_BT.shape[1]
    now = torch.nn.functional.pad(now, (0, width - now.shape[1]))
    own = policy_loss(
        batch.old_logprobs_BT + now,
        old_logprobs_BT=batch.old_logprobs_BT,
        advantages_B=batch.advantages_B,
        weights_BT=batch.weights_BT,
        objective=objective,
    )

    rows = Rows(padding=padding)
    change = torch.zeros(rows.mask.shape)
    for row, (values, mask) in enumerate(zip(moved, rows.mask, strict=False)):
        change[row, mask.bool()] = values[: int(mask.sum())]
    shift = torch.cat([theirs, torch.zeros(padding)])[:, None] * rows.mask
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=4,
        use_dynamic_bsz=True,
        clip_ratio=objective.clip_low,
        clip_ratio_low=objective.clip_low,
        clip_ratio_high=objective.clip_high,
        clip_ratio_c=NO_DUAL_CLIP,
        loss_scale_factor=LONGEST,
    )
    config.global_batch_info.update(
        dp_size=1,
        batch_num_tokens=int(rows.mask.sum()),
        global_batch_size=int(rows.mask.any(1).sum()),  # as `FissionTrainer._update_actor` counts
        loss_scale_factor=LONGEST,
    )
    loss, _ = get_policy_loss_fn("vanilla")(
        old_log_prob=rows.old,
        log_prob=rows.old + change + shift,
        advantages=rows.advantages(objective.scale),
        response_mask=rows.mask,
        loss_agg_mode=AGGREGATIONS[objective.aggregation],
        config=config,
        rollout_is_weights=None,
    )
    own.backward()
    loss.backward()
    torch.testing.assert_close(loss, own, atol=1e-5, rtol=0)
    assert theirs.grad is not None
    assert ours.grad is not None
    torch.testing.assert_close(theirs.grad, ours.grad, atol=1e-5, rtol=0)
    assert ours.grad.abs().max() > 0.01


def test_a_row_holds_every_token_and_what_became_of_it() -> None:
    one = GROUPS[0].members[2]
    row = output_of(one, versions=[4, 5], eos_id=EOS)
    assert (row.prompt_ids, row.response_ids) == ([1, 2], [3, 4, 5, 6])
    assert row.response_mask == [1, 0, 1, 1]  # the tool's reply is given
    assert row.response_logprobs == pytest.approx([-0.3, 0.0, -0.1, -0.2])
    assert row.reward_score == 0.25
    assert unpacked_member(row.extra_fields[MEMBER]) == one
    assert (row.extra_fields["min_global_steps"], row.extra_fields["max_global_steps"]) == (4, 5)


def test_a_spoiled_trajectory_weighs_nothing_even_without_a_message() -> None:
    assert output_of(member(None, 2), versions=[0], eos_id=EOS).response_mask == [0, 0, 0]
    silent = member(None, 1)
    bare = Member(
        trajectory=Trajectory(
            task=TASK,
            prompt=2,
            ids=(1, 2),
            sampled=(False, False),
            logprobs=(0.0, 0.0),
            given=(),
            turns=(),
            snapshots=(),
            end=EndReason.HARNESS_FAULT,
            verdict=None,
        ),
        reward=None,
        success=silent.success,
        failure=None,
    )
    row = output_of(bare, versions=[0], eos_id=EOS)
    assert (row.response_ids, row.response_mask, row.response_logprobs) == ([EOS], [0], [0.0])


def test_a_checkpoint_holds_the_buffer_as_plain_data(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_3"
    assert read_buffer(folder) is None  # of plain verl
    write_buffer(folder, {"buffer": {"contexts": [{"x_ids": [1, 2]}], "dropped": 0}})
    assert read_buffer(folder) == {"buffer": {"contexts": [{"x_ids": [1, 2]}], "dropped": 0}}
    assert [path.name for path in folder.iterdir()] == [BUFFER_FILE]


def test_a_name_of_the_newest_checkpoint_that_a_kill_left_empty_is_written_anew(tmp_path: Path) -> None:
    """verl opens that file when everything else of a checkpoint is there; half of step 11 was not named yet."""
    assert newest_step(tmp_path) == 0
    for step in (9, 10):
        write_buffer(tmp_path / f"global_step_{step}", {})
        (tmp_path / f"global_step_{step}" / "data.pt").touch()
    write_buffer(tmp_path / "global_step_11", {})
    assert newest_step(tmp_path) == 0
    (tmp_path / NEWEST_FILE).write_text("9", encoding="utf-8")
    assert newest_step(tmp_path) == 9
    (tmp_path / NEWEST_FILE).write_text("", encoding="utf-8")
    assert newest_step(tmp_path) == 10
    assert (tmp_path / NEWEST_FILE).read_text(encoding="utf-8") == "10"


@pytest.mark.parametrize(
    "written", [b"half of it", pickle.dumps(GROUPS[0].members[0], protocol=2)], ids=["damaged", "code"]
)
def test_a_file_that_is_no_plain_data_is_refused(tmp_path: Path, written: bytes) -> None:
    (tmp_path / BUFFER_FILE).write_bytes(written)
    with pytest.raises(ConfigError, match="resume from an older checkpoint"):
        read_buffer(tmp_path)
