"""The probe of a weight sync: which tokens, and what counts as a gap."""

import math
from typing import Any

from service.contract.data import PromptData
from tests.workers.stage_world import EVALUATION, RL, SFT, make_spec
from workers.rollouts import Prompt
from workers.stages.weight_probe import LazyProbe, largest_gap, make_probe


def load(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
    """Prompts of one to seven tokens that begin with their number."""
    first = 1000 if data.path == "/test" else 10
    return [
        Prompt(uid=uid, text="", token_ids=tuple(range(first + uid, first + uid + 1 + uid % 7)), answer="")
        for uid in range(40)
    ][:limit]


def sequences(**changes: Any) -> tuple[tuple[int, ...], ...]:
    return make_probe(make_spec(**changes), load).sequences


def test_the_same_prompts_in_every_attempt_and_others_with_another_seed() -> None:
    assert sequences() == sequences() != sequences(seed=9)
    assert len(sequences()) == 4
    assert all(2 <= len(tokens) <= 8 for tokens in sequences())


def test_prompts_are_those_of_rl_or_without_it_of_the_evaluation() -> None:
    assert max(map(max, sequences(sft=None, rl=RL, evaluation=EVALUATION))) < 1000
    assert min(map(min, sequences(sft=SFT, rl=None, evaluation=EVALUATION))) >= 1000


def test_as_many_as_are_asked_for_and_none_beyond_the_models_length() -> None:
    rl = {**RL, "weight_sync": {"probe_num_sequences": 9}}
    found = sequences(rl=rl, model={"path": "/model", "max_model_len": 5})
    assert len(found) == 9 and max(map(len, found)) == 4
    assert sequences(rl={**RL, "weight_sync": {"probe_num_sequences": 0}}) == ()


def test_prompts_of_one_token_are_joined() -> None:
    def load_short(data: PromptData, max_prompt_tokens: int, limit: int | None) -> list[Prompt]:
        return [Prompt(uid=0, text="", token_ids=(7,), answer="")]

    assert make_probe(make_spec(), load_short).sequences == ((7, 7),)


def test_the_limit_is_the_specifications_or_that_of_the_precision() -> None:
    given = {**RL, "weight_sync": {"probe_max_logprob_diff": 0.5}}
    assert make_probe(make_spec(rl=given), load).limit == 0.5
    limits = [
        make_probe(make_spec(model={"path": "/m", "dtype": dtype}), load).limit for dtype in ("float32", "bfloat16")
    ]
    assert limits[0] < limits[1]


def test_the_largest_gap_is_that_of_any_token() -> None:
    assert largest_gap([[-1.0, -2.0], [-3.0]], ((-1.0, -2.5), (-3.1,))) == 0.5
    assert largest_gap([], ()) == 0.0
    assert largest_gap([[math.nan]], ((-1.0,),)) == math.inf


def test_data_are_read_once_and_only_when_asked_for() -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return make_probe(make_spec(), load)

    probe = LazyProbe(make)
    assert made == []
    assert probe() is probe() and made == [1]
