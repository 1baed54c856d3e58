"""How different the samples of one prompt are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean

from sacrebleu.metrics import BLEU

from workers.evaluation.correctness import CORRECT_FROM, num_correct

_IDENTICAL = 100.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU (0..100) of each sample of a prompt against all its others; 100 means that all are alike.

    Self-BLEU (arXiv 1802.01886) as sacrebleu computes BLEU-4: words are what spaces separate (`none`), each other
    sample is a reference of its own, precisions of 0 are smoothed exponentially. The order is effective: a sample of
    fewer than four words is judged by the n-grams it can have, where plain BLEU would call a repeated two-word answer
    diverse.

    A sample that occurs twice has BLEU 100 without being computed; that holds for the empty text too.

    Raises ValueError for fewer than two samples.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares a prompt's samples; it needs at least 2 of them, got {len(texts)}")
    # References that occur twice count once in BLEU, so the different texts are all that matters.
    words = [" ".join(text.split()) for text in texts]
    counts = Counter(words)
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = {
        text: _IDENTICAL if count > 1 else _bleu(bleu, text, [other for other in counts if other != text])
        for text, count in counts.items()
    }
    return fmean(scores[text] for text in words)


def distinct_n(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams over all n-grams of a prompt's samples (distinct-n, arXiv 1510.03055); 1 if none repeats.

    Words are what spaces separate, as for Self-BLEU. None if no sample has `n` words.
    """
    ngrams = [ngram for text in texts for ngram in _ngrams(text.split(), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def distinct_answers(answer_keys: Iterable[str]) -> int:
    """Different answers among a prompt's samples."""
    return len(set(answer_keys))


def distinct_correct(answer_keys: Sequence[str], rewards: Sequence[float]) -> int:
    """Different right answers among a prompt's samples."""
    return len({key for key, reward in zip(answer_keys, rewards, strict=True) if reward >= CORRECT_FROM})


def frac_mixed_groups(rewards_by_prompt: Iterable[Sequence[float]]) -> float:
    """Share of prompts with right and wrong samples: those from which a group-relative advantage can learn.

    Raises ValueError (statistics.StatisticsError) if there is no prompt.
    """
    return fmean(0 < num_correct(rewards) < len(rewards) for rewards in rewards_by_prompt)


def _ngrams(words: list[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _bleu(bleu: BLEU, hypothesis: str, references: list[str]) -> float:
    return float(bleu.sentence_score(hypothesis, references).score)
