"""The reward for tasks whose answer is one text: right if the completion is that text."""

from service.contract.gold_answers import parse_exact_match_gold


def verify_exact_match(completion: str, gold_text: str) -> bool:
    """Whether the completion equals the gold answer, outer white space aside.

    Raises ValueError if the gold answer is blank; no completion makes it raise.
    """
    return completion.strip() == parse_exact_match_gold(gold_text)


def exact_match_answer_key(completion: str) -> str:
    """Completions that differ only in outer white space are the same answer."""
    return completion.strip()
