"""The RL benchmark's rows, and the lengths that its models are built to have."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.rl import ROWS
from bench.rl_speed import CANDIDATES, PEERS
from bench.rl_workload import (
    MAX_COMPLETION,
    MEAN_COMPLETION,
    SIZES,
    ModelSize,
    end_probability,
    write_rl_workload,
)
from bench.turns import Turn
from service.contract.spec import ExperimentSpec

PROMISED = {
    "samples_per_s_vs_trl_18m",
    "samples_per_s_vs_trl_600k",
    "async_vs_sync_steps_per_hour",
    "weight_sync_vs_reload_speed",
}
EOS = 1


def test_every_promised_row_is_there_once() -> None:
    assert set(ROWS) == PROMISED
    assert len(ROWS) == len(PROMISED)


def test_the_peer_of_each_size_is_one_of_those_that_a_search_tries() -> None:
    assert all(PEERS[size] in CANDIDATES[size] for size in SIZES)


def test_a_geometric_length_cut_at_the_limit_has_the_mean() -> None:
    p = end_probability()
    lengths = [min(length, MAX_COMPLETION) * p * (1 - p) ** (length - 1) for length in range(1, 5000)]
    assert math.fsum(lengths) == pytest.approx(MEAN_COMPLETION, rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    "size", [SIZES["600k"], ModelSize(vocabulary=500, hidden=64, intermediate=96, layers=2, heads=4)]
)
def test_a_models_completions_end_with_the_same_probability_everywhere(tmp_path: Path, size: ModelSize) -> None:
    write_rl_workload(tmp_path, size, num_steps=2, num_prompts=3, num_generations=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens_BT = torch.randint(3, size.vocabulary, (4, 60), generator=torch.Generator().manual_seed(1))
    found_BT = model(tokens_BT).logits.softmax(-1)[..., EOS]
    assert float(found_BT.mean()) == pytest.approx(end_probability(), rel=0.05)
    assert float(found_BT.std() / found_BT.mean()) < 0.1


def test_a_workload_says_the_same_to_ours_and_to_peers(tmp_path: Path) -> None:
    spec = write_rl_workload(tmp_path, SIZES["600k"], num_steps=2, num_prompts=3, num_generations=2)
    assert ExperimentSpec.model_validate_json((tmp_path / "spec.json").read_text()) == spec
    told = json.loads((tmp_path / "peer.json").read_text())
    assert spec.rl is not None
    assert (told["num_prompts"], told["num_generations"]) == (spec.rl.num_prompts_per_step, spec.rl.num_generations)
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 2 * 3


def test_a_turn_may_say_where_its_time_went() -> None:
    assert Turn(seconds=1.0, cpu_seconds=1.0, peak_mib=1.0).phases == {}
