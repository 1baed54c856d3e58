"""A task of one choice, a bandit with three arms, is solved by every estimator and policy loss, in step and ahead."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.contract.rl import RolloutCorrection
from service.contract.stages import OptimizerSpec
from tests.workers.bandit_world import BanditRun, make_spec
from tests.workers.tiny_model import make_rl_spec, make_trainer
from workers.actors.trainer import Trainer
from workers.rollouts import Completion, Prompt
from workers.stages.rl_groups import GroupSelection
from workers.stages.sampling import JudgedGroup

PROMPT, ARMS, REWARDS = (3, 4), (7, 8, 9), (0.0, 1.0, 0.0)
SETTINGS: dict[str, Any] = {
    "num_prompts_per_step": 4,
    "num_generations": 8,
    "num_steps": 25,
    "max_completion_length": 1,
    "optimizer": OptimizerSpec(learning_rate=5e-3),
}
SEVERAL = {"mini_batch_size": 16, "num_iterations": 2}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "grpo batch": {"scale_rewards": "batch", "loss_agg_mode": "seq-mean-token-mean"},
    "dr_grpo": {"adv_estimator": "dr_grpo", "loss_agg_mode": "seq-mean-token-sum-norm"},
    "rloo": {"adv_estimator": "rloo", "policy_loss": "reinforce"},
    "reinforce++": {"adv_estimator": "reinforce_plus_plus"},
    "reinforce++ baseline": {"adv_estimator": "reinforce_plus_plus_baseline"},
    "pass_at_k": {"adv_estimator": "pass_at_k", "adv_k": 2},
    "dual clip": {"delta": 3.0, **SEVERAL},
    "gspo": {"policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean", **SEVERAL},
    "cispo": {"policy_loss": "cispo", **SEVERAL},
    "replace": {"dynamic_sampling": {"mode": "replace"}},
    "all terms": {
        "beta": 0.01,
        "entropy_coef": 0.001,
        "rollout_correction": RolloutCorrection(mode="token_truncate"),
    },
}


def chances_of(trainer: Trainer) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of the arms, among themselves."""
    logprobs = trainer.logprobs([(list(PROMPT), [arm]) for arm in ARMS], temperature=1.0)
    chances = np.array([math.exp(value) for [value] in logprobs])
    return chances / chances.sum()


def pull(trainer: Trainer, uid: int, generator: np.random.Generator) -> JudgedGroup:
    """A group of eight draws from the policy."""
    chances = chances_of(trainer)
    drawn = generator.choice(len(ARMS), size=8, p=chances)
    return JudgedGroup(
        prompt=Prompt(uid=uid, text="pull", token_ids=PROMPT, answer="8"),
        completions=tuple(
            Completion(
                prompt_uid=uid,
                sample_index=index,
                token_ids=(ARMS[arm],),
                logprobs=(math.log(chances[arm]),),
                finish_reason="stop",
                text=str(ARMS[arm]),
                policy_version=0,
            )
            for index, arm in enumerate(drawn)
        ),
        rewards=tuple(REWARDS[arm] for arm in drawn),
    )


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_best_arm_is_found(model_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = make_rl_spec(**(SETTINGS | changes))
    trainer = make_trainer(model_folder)
    trainer.prepare_rl(spec, str(tmp_path / "rl"))
    generator = np.random.default_rng(0)
    assert chances_of(trainer)[1] < 0.5
    for step in range(1, spec.num_steps + 1):
        selection = GroupSelection(spec)
        selection.add([pull(trainer, uid, generator) for uid in range(spec.num_prompts_per_step)])
        trainer.rl_step(step, selection.samples(selection.result().groups), temperature=1.0)
    assert chances_of(trainer)[1] > 0.9


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_best_arm_is_found_with_rollouts_of_policies_up_to_two_steps_old(
    model_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = BanditRun(make_spec(mode="async", max_staleness=2, **changes), model_folder, tmp_path)
    run.run()
    assert max(run.reports.values["async/staleness/max"].values()) == 2.0
    assert run.engine.policy[0] == 25 and run.engine.policy[1][1] > 0.9
