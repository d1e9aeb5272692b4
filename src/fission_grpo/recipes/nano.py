"""Fission-GRPO on `nano`, in minutes on two CPU cores: on tasks that it knows, and on harder ones of the same APIs."""

from __future__ import annotations

from fission_grpo.algorithm.losses import ObjectiveName
from fission_grpo.algorithm.source import FissionSettings
from fission_grpo.config import RunSettings
from fission_grpo.recipes import Exploration
from fission_grpo.rollout import Horizon, RolloutSettings
from fission_grpo.tasks.training_set import SyntheticSettings
from fission_grpo.training.settings import TrainerSettings

NANO_TASKS = SyntheticSettings(
    seed=1000,
    count=1000,
    apis=("TradingBot", "GorillaFileSystem", "TicketAPI"),
    tools=(4, 6),
    calls=(0.55, 0.40, 0.05),
    two_parts=(0.1, 0.2),
)
"""The tasks that `nano` knows: three APIs, short chains, half of the needs unmet and invisible."""

NANO_HARD_TASKS = NANO_TASKS.model_copy(
    update={
        "tools": (6, 8),
        "calls": (0.1, 0.3, 0.45, 0.15),
        "two_parts": (0.1, 0.5),
        "two_apis": 0.5,
        "two_unmet": 0.35,
        "lookalikes": 1.0,
    }
)
"""Three in five take three to five calls, every spare tool looks right, and many worlds lack two things at once.

The shorter ones are the way in: of chains of three to five calls alone, with two requests each, the warm start solved
1 % on the validation split, which is hardly a reward to learn from. Of these it solves 19 %, and errs in 68 %.
"""


def nano_settings(exploration: Exploration = Exploration.EPISODES) -> RunSettings:
    """Whole episodes judged by their world, and recoveries that go on to the end of the turn; or the paper's decisions.

    **Whole episodes.** Rewards are centred and not divided by a group's standard deviation: the division magnifies the
    small terms of the episode's reward in groups that all fail, and a policy of this size follows them to its ruin (on
    the validation split it learned to call anything rather than to answer). Two fifths of the exploration groups'
    number of contexts, and a tight clip: on the validation split six contexts beside eight queries cost first attempts,
    and unclipped steps on fresh recoveries did so in some seeds.

    **Decisions.** The paper's objective and sizes, and twice the steps, each of which costs a fourth. Advantages are
    divided by the standard deviation: decision points include those where words are due, which hold back a policy that
    would call anything. On the validation split, four runs each, recovery (ERR) was 27 % undivided and 37 % divided,
    57 % after 120 steps, and 66 % with eight queries and eight contexts (46 % with other seeds: runs differ by 15 to 30
    points, and four cannot tell the last two apart).

    **Mixed.** Whole turns are among them, so nothing is divided: divided, the control recovered less (two runs each).
    """
    episodes = RunSettings(
        model="nano",
        synthetic=NANO_TASKS,
        trainer=TrainerSettings(
            steps=60,
            queries=10,
            group_size=8,
            horizon=Horizon.TURN,
            objective=ObjectiveName.GRPO_UNSCALED,
            learning_rate=3e-4,
            beta=0.02,
            max_grad_norm=0.1,
            token_budget=4096,
        ),
        rollouts=RolloutSettings(max_tokens=64, max_turns=5),
        fission=FissionSettings(contexts=4, group_size=8, capacity=32),
    )
    if exploration is Exploration.EPISODES:
        return episodes
    divided = exploration is Exploration.DECISIONS
    objective = ObjectiveName.GRPO if divided else ObjectiveName.GRPO_UNSCALED
    return episodes.model_copy(
        update={
            "trainer": episodes.trainer.model_copy(update={"steps": 120, "queries": 8, "objective": objective}),
            "fission": episodes.fission.model_copy(update={"contexts": 8}),
        }
    )


def nano_hard_settings(exploration: Exploration = Exploration.EPISODES) -> RunSettings:
    """The same on the harder tasks, with the room that their chains and errors take.

    **Whole episodes** keep as many tasks as a GRPO run of the same cost has, and shrink their groups: 14 tasks of six
    trajectories and three contexts. On the validation split, four runs each, ten tasks of eight and four contexts cost
    4 points of final success against matched GRPO, and these sizes nothing. For GRPO itself groups of six and of eight
    are alike there.
    """
    easy = nano_settings(exploration)
    hard = easy.model_copy(
        update={"synthetic": NANO_HARD_TASKS, "rollouts": easy.rollouts.model_copy(update={"max_turns": 10})}
    )
    if exploration is not Exploration.EPISODES:
        return hard
    return hard.model_copy(
        update={
            "trainer": hard.trainer.model_copy(update={"queries": 14, "group_size": 6}),
            "fission": hard.fission.model_copy(update={"contexts": 3}),
        }
    )
