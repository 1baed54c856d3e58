"""One step of the supervised stage counts the tokens that are trained, wherever in a completion they stand."""

from pathlib import Path

import pytest
import torch

from service.contract.spec import ModelSpec
from tests.workers.tiny_model import make_sft_spec
from workers.actors.optimization import Optimization
from workers.actors.policy_model import PolicyModel
from workers.actors.sft_step import SftStep
from workers.data.token_sequence import TokenSequence
from workers.objectives.cross_entropy import CrossEntropy

SAMPLES = [
    TokenSequence(prompt_token_ids=(3, 4), completion_token_ids=(5, 6, 7, 8), is_trained=(True, False, False, True)),
    TokenSequence(prompt_token_ids=(9,), completion_token_ids=(10, 11)),
]


@pytest.mark.parametrize("changes", [{}, {"max_tokens_per_microbatch": 1}, {"packing": True}], ids=str)
def test_tokens_between_trained_ones_count_nowhere(model_folder: Path, changes: dict[str, object]) -> None:
    policy = PolicyModel(ModelSpec(path=str(model_folder), max_model_len=32), torch.device("cpu"))
    whole = [
        TokenSequence(prompt_token_ids=s.prompt_token_ids, completion_token_ids=s.completion_token_ids) for s in SAMPLES
    ]
    nll = policy.statistics(whole).nll_N[torch.tensor([0, 3, 4, 5])]
    spec = make_sft_spec("unread", **changes)
    step = SftStep(policy, Optimization(policy.parameters(), spec.optimizer, 1), CrossEntropy(), spec, seed=0)
    values = step.run(1, SAMPLES)
    assert values["sft/num_tokens"] == 4.0
    assert values["sft/nll"] == pytest.approx(nll.mean().item(), abs=1e-6)
