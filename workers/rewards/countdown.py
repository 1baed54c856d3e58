"""The exact Countdown verifier: is this completion a legal trace that ends at the target?

Grammar of a completion, words separated by whitespace, of which there may be more than needed but not less::

    completion = step ";" step
    step       = integer operator integer "=" integer
    operator   = "+" | "-" | "*" | "/"
    integer    = "0" | "1" | ... | "36"

The first step uses two of the problem's three numbers, the second uses the first's result and the remaining number, in
either order. Arithmetic is exact: every result is an integer in 0..36 and a division leaves no remainder. The second
result is the target, and nothing follows it.
"""

from dataclasses import dataclass

from service.contract.gold_answers import COUNTDOWN_INTEGERS, MAX_COUNTDOWN_VALUE, CountdownGold

_NUM_WORDS = 11
_COMMUTATIVE = "+*"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    left: int
    operator: str
    right: int
    result: int

    def canonical(self) -> str:
        left, right = self.left, self.right
        if self.operator in _COMMUTATIVE and left > right:
            left, right = right, left
        return f"{left} {self.operator} {right} = {self.result}"


def verify_countdown(completion: str, gold: CountdownGold) -> bool:
    """Say whether the completion solves the problem by the module's grammar and rules; never raises."""
    steps = _sound_steps(completion)
    if steps is None:
        return False
    first, second = steps
    remaining = list(gold.numbers)
    for operand in (first.left, first.right):
        if operand not in remaining:
            return False
        remaining.remove(operand)
    operands = sorted((second.left, second.right))
    return operands == sorted((first.result, *remaining)) and second.result == gold.target


def countdown_answer_key(completion: str) -> str | None:
    """Canonical form for counting distinct answers; None for text that is no sound trace.

    The same answer: traces that differ only in whitespace or in the order of the operands of ``+`` and ``*``.
    Different answers: everything else, also when algebra calls it equal, as ``(3 + 5) + 7`` and ``(3 + 7) + 5``: the
    traces take another path. Sound means that both steps calculate exactly and the second uses the first's result; the
    problem's numbers and target are not known here, so a sound trace may still be wrong.
    """
    steps = _sound_steps(completion)
    return None if steps is None else " ; ".join(step.canonical() for step in steps)


def calculate(left: int, operator: str, right: int) -> int | None:
    """Result of one operation, or None where it is not an integer in 0..36."""
    result: int | None
    match operator:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right
        case "/":
            result = left // right if right != 0 and left % right == 0 else None
        case _:
            result = None
    return result if result is not None and 0 <= result <= MAX_COUNTDOWN_VALUE else None


def _sound_steps(completion: str) -> tuple[_Step, _Step] | None:
    words = completion.split()
    if len(words) != _NUM_WORDS or words[5] != ";":
        return None
    first, second = _read_step(words[:5]), _read_step(words[6:])
    if first is None or second is None or first.result not in (second.left, second.right):
        return None
    return first, second


def _read_step(words: list[str]) -> _Step | None:
    left, right, result = (COUNTDOWN_INTEGERS.get(words[position]) for position in (0, 2, 4))
    if left is None or right is None or result is None or words[3] != "=":
        return None
    if calculate(left, words[1], right) != result:
        return None
    return _Step(left=left, operator=words[1], right=right, result=result)
