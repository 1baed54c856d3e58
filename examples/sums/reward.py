"""The tutorial's reward: do the two numbers of a completion make the number that was asked for?"""


def reward(prompt: str, completion: str, answer: str) -> float:
    """1.0 for `4 + 5` where the answer is 9; 0.5 for another sum; 0.0 for what is no sum."""
    match completion.split():
        case [left, "+", right] if left.isdecimal() and right.isdecimal():
            return 1.0 if int(left) + int(right) == int(answer) else 0.5
        case _:
            return 0.0
