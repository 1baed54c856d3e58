import json
from pathlib import Path

import pytest

from bench.rows import Row
from bench.sft import ROWS
from bench.sft_loss import Sizes, time_rows
from bench.sft_speed import require_peers
from bench.sft_workload import TINY, equal_lengths, step_tokens, write_workload
from service.contract.stages import OptimizerSpec

PROMISED = {
    "sed_fused_vs_ce_fused_time",
    "sed_fused_vs_ce_logits_time",
    "sed_fused_vs_ce_logits_memory",
    "sed_fused_vs_authors_time",
    "sed_fused_vs_authors_memory",
    "tokens_per_s_vs_trl",
}


def test_every_row_has_a_name_of_its_own() -> None:
    assert len(ROWS) == len(set(ROWS))
    assert set(ROWS) >= PROMISED


def test_a_ratio_is_ours_by_the_peers() -> None:
    assert Row(ours=3.0, peer=2.0, unit="s").as_json() == {"ours": 3.0, "peer": 2.0, "ratio": 1.5, "unit": "s"}


def test_only_the_wanted_times_are_measured() -> None:
    rows = time_rows(["sed_fused_vs_ce_logits_time"], Sizes(tokens=8, hidden=4, vocabulary=16), rounds=1)
    assert list(rows) == ["sed_fused_vs_ce_logits_time"]


def test_a_missing_interpreter_of_the_peers_is_told_how_to_make(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"pip install -r bench/peers\.txt"):
        require_peers(tmp_path / "python")


def test_peers_get_the_tokens_of_the_pairs(tmp_path: Path) -> None:
    spec = write_workload(
        tmp_path, TINY, equal_lengths(6, 5), optimizer=OptimizerSpec(learning_rate=0.0), num_epochs=1, batch_size=4
    )
    peer = json.loads((tmp_path / "peer.json").read_text())
    assert step_tokens(tmp_path, spec) == [20, 10]
    assert peer["arguments"]["max_steps"] == 2
    assert all(sample["labels"][0] == -100 and sample["input_ids"][-1] == 1 for sample in peer["samples"])
