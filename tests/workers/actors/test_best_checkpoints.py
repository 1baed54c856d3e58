import json
import math
from typing import Any

from tests.workers.tiny_model import make_sft_spec
from workers.actors.best_checkpoints import BestCheckpoints


def make_best(num_kept: int, **changes: Any) -> BestCheckpoints:
    spec = make_sft_spec("not read", eval_data={"path": "/eval"}, num_best_checkpoints=num_kept, **changes)
    return BestCheckpoints(spec)


def add_all(best: BestCheckpoints, name: str, values: dict[int, float]) -> list[int]:
    """Steps of the best, the best first."""
    for step, value in values.items():
        best.add(step, {name: value})
    return [ranked.step for ranked in best.ranking]


def test_the_lowest_nll_is_the_best() -> None:
    best = make_best(2)
    assert add_all(best, "sft/eval/nll", {10: 2.0, 20: 1.0, 30: 1.5, 40: 1.7}) == [20, 30]
    assert best.names == {"step-00000020", "step-00000030"}


def test_the_highest_accuracy_is_the_best() -> None:
    best = make_best(1, best_metric="sft/eval/mean_token_accuracy")
    assert add_all(best, "sft/eval/mean_token_accuracy", {10: 0.5, 20: 0.75, 30: 0.6}) == [20]


def test_of_equals_the_earlier_is_kept() -> None:
    assert add_all(make_best(1), "sft/eval/nll", {10: 1.0, 20: 1.0}) == [10]


def test_what_is_no_number_is_never_good() -> None:
    assert add_all(make_best(3), "sft/eval/nll", {10: math.nan, 20: 1.0, 30: -math.inf}) == [20]


def test_the_ranking_comes_back_from_json() -> None:
    best = make_best(2)
    add_all(best, "sft/eval/nll", {10: 0.1 + 0.2, 20: 1.0})
    spec = make_sft_spec("not read", eval_data={"path": "/eval"}, num_best_checkpoints=2)
    assert BestCheckpoints(spec, json.loads(json.dumps(best.as_facts()))).ranking == best.ranking
