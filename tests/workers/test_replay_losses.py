"""Whatever a step's loss is made of, its replay gives what was logged, to the bit."""

from pathlib import Path
from typing import Any

import pytest

from tests.workers.local_rl import local_spec, run_local_rl
from tests.workers.tiny_model import make_model_folder
from workers.replay import replay

SEVERAL = {"mini_batch_size": 4, "num_iterations": 2}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dapo": {"preset": "dapo", "mask_truncated_completions": True},
    "dr_grpo": {"preset": "dr_grpo", **SEVERAL},
    "rloo, reinforce": {"adv_estimator": "rloo", "policy_loss": "reinforce", "loss_agg_mode": "seq-mean-token-sum"},
    "reinforce++": {"adv_estimator": "reinforce_plus_plus", **SEVERAL},
    "reinforce++ baseline": {"adv_estimator": "reinforce_plus_plus_baseline", "kl_estimator": "k1", "beta": 0.1},
    "pass@k": {"adv_estimator": "pass_at_k", "adv_k": 2, "kl_estimator": "k2", "beta": 0.1, **SEVERAL},
    "dual clip, entropy": {"delta": 3.0, "entropy_coef": 0.01, **SEVERAL},
    "gspo": {"policy_loss": "gspo", "loss_agg_mode": "seq-mean-token-mean", **SEVERAL},
    "cispo, k3": {"policy_loss": "cispo", "beta": 0.1, **SEVERAL},
    "replace": {"dynamic_sampling": {"mode": "replace"}},
    "token_truncate": {"rollout_correction": {"mode": "token_truncate", "max": 1.1}},
    "token_mask": {"rollout_correction": {"mode": "token_mask", "max": 5.0, "min": 0.9}, **SEVERAL},
    "sequence_truncate": {"rollout_correction": {"mode": "sequence_truncate", "max": 1.1}},
    "sequence_mask": {"rollout_correction": {"mode": "sequence_mask", "max": 1.1, "aggregate": "mean"}, **SEVERAL},
    "micro-batches": {"max_tokens_per_microbatch": 9, "policy_loss": "gspo", "beta": 0.1, **SEVERAL},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_replayed_step_is_what_was_logged(model_folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    reports = run_local_rl(local_spec(model_folder, **changes), tmp_path)
    # Right behind a checkpoint, with a stored step between, and from RL's beginning.
    for step in (3, 6, 2):
        found = replay(str(tmp_path), step)
        logged = {metric.name: dict(reports.series(metric.name))[step] for metric in found}
        assert {metric.name: metric.again for metric in found} == logged
        assert logged["actor/grad_norm"] > 0.0
        assert logged.keys() >= {"actor/pg_loss", "sampling/mismatch_kl"}
