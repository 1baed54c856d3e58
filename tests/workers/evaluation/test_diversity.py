"""Diversity measures against sacrebleu called by the definition, and against hand-counted answers."""

import random
import time

import pytest
from sacrebleu import corpus_bleu

from workers.evaluation.diversity import distinct_answers, distinct_correct, distinct_n, frac_mixed_groups, self_bleu


def a_trace(rng: random.Random, num_words: int = 11) -> str:
    return " ".join(rng.choice(["3", "5", "7", "8", "+", "-", "*", "=", ";"]) for _ in range(num_words))


def plain_self_bleu(texts: list[str]) -> float:
    """The definition, one corpus of one sentence after another."""
    scores = [
        corpus_bleu([text], [[other] for other in texts[:index] + texts[index + 1 :]], tokenize="none").score
        for index, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_self_bleu_is_the_mean_of_one_against_all_others(seed: int) -> None:
    rng = random.Random(seed)
    texts = [a_trace(rng) for _ in range(5)]
    texts += texts[:2]
    assert self_bleu(texts) == pytest.approx(plain_self_bleu(texts), abs=1e-9)


@pytest.mark.parametrize("text", ["3 + 5 = 8 ; 8 + 7 = 15", "3 +", ""])
def test_equal_samples_have_self_bleu_100(text: str) -> None:
    assert self_bleu([text] * 4) == pytest.approx(100.0)


def test_samples_without_a_common_word_have_self_bleu_0() -> None:
    assert self_bleu(["a b c d", "e f g h", "i j k l", ""]) == 0.0


def test_one_sample_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        self_bleu(["a"])


def test_self_bleu_of_a_whole_evaluation_takes_a_few_seconds_at_most() -> None:
    rng = random.Random(0)
    began = time.process_time()
    for _ in range(64):
        self_bleu([a_trace(rng) for _ in range(8)])
    assert time.process_time() - began < 2.0


def test_answers_are_counted_once() -> None:
    assert distinct_answers(["a", "b", "a", "c"]) == 3
    assert distinct_correct(["a", "b", "a", "c"], [1.0, 0.0, 1.0, 1.0]) == 2


def test_mixed_groups_have_right_and_wrong_samples() -> None:
    assert frac_mixed_groups([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]) == 0.5


@pytest.mark.parametrize(("n", "share"), [(1, 3 / 7), (2, 3 / 5), (3, 1.0), (4, 1.0)])
def test_distinct_n_counts_runs_of_words_over_all_samples(n: int, share: float) -> None:
    assert distinct_n(["a b  a b", "a b c", ""], n) == share


def test_samples_that_are_too_short_have_no_distinct_n() -> None:
    assert distinct_n(["a b", "c", ""], 3) is None
