"""Completions meet their verdicts, and those without one neither win nor lose."""

from collections.abc import Sequence

from workers.rewards.reward import Verdict
from workers.rewards.samples import RewardSample
from workers.rollouts import Completion, Prompt
from workers.stages.sampling import JudgedGroup, judge

PROMPTS: list[Prompt] = [Prompt(uid=uid, text=f"q{uid}", token_ids=(1,), answer="a") for uid in (4, 9)]


class Listed:
    """Gives the verdicts that stand in a list, and checks what it is asked."""

    def __init__(self, scores: list[float | None]) -> None:
        self.scores = scores

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        assert [(sample.prompt_uid, sample.sample_index) for sample in samples] == [(4, 0), (4, 1), (9, 0), (9, 1)]
        assert [sample.prompt for sample in samples] == ["q4", "q4", "q9", "q9"]
        return [Verdict(score=score) for score in self.scores]

    def answer_key(self, completion_text: str) -> str:
        return completion_text

    def take_metrics(self) -> dict[str, float]:
        return {}


def groups(scores: list[float | None]) -> list[JudgedGroup]:
    completions = [
        Completion(
            prompt_uid=prompt.uid,
            sample_index=index,
            token_ids=(2,),
            logprobs=(0.0,),
            finish_reason="stop",
            text="",
            policy_version=0,
        )
        for prompt in PROMPTS
        for index in range(2)
    ]
    return judge(PROMPTS, completions, Listed(scores))


def test_rewards_stay_with_their_completions() -> None:
    assert [group.rewards for group in groups([1.0, 0.0, 0.25, 0.5])] == [(1.0, 0.0), (0.25, 0.5)]


def test_a_dropped_completion_takes_the_mean_of_its_groups_others() -> None:
    first, second = groups([None, 1.0, None, None])
    assert (first.rewards, first.num_dropped, first.is_mixed) == ((1.0, 1.0), 1, False)
    assert (second.rewards, second.num_dropped, second.is_mixed) == ((0.0, 0.0), 2, False)
