"""Completions meet their verdicts, and those without one neither win nor lose."""

from collections.abc import Sequence

from workers.rewards.reward import Verdict
from workers.rewards.reward_counts import RewardTally
from workers.rewards.samples import RewardSample
from workers.rollouts import Completion, Prompt
from workers.stages.sampling import JudgedGroup, judge

PROMPTS: list[Prompt] = [Prompt(uid=uid, text=f"q{uid}", token_ids=(1,), answer="a") for uid in (4, 9)]


class Listed:
    """Gives the verdicts that stand in a list, and notes what it is asked."""

    def __init__(self, scores: list[float | None]) -> None:
        self.scores = scores
        self.asked: list[tuple[int, int]] = []

    def judge(self, samples: Sequence[RewardSample]) -> list[Verdict]:
        assert all(sample.prompt == f"q{sample.prompt_uid}" for sample in samples)
        self.asked = [(sample.prompt_uid, sample.sample_index) for sample in samples]
        return [Verdict(score=score) for score in self.scores]

    def answer_key(self, completion_text: str) -> str:
        return completion_text

    def take_tally(self) -> RewardTally:
        return RewardTally()

    def metrics_of(self, tally: RewardTally) -> dict[str, float]:
        return {}


def groups(scores: list[float | None], num_generations: int = 2) -> list[JudgedGroup]:
    prompts = PROMPTS[: len(scores) // num_generations]
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
        for prompt in prompts
        for index in range(num_generations)
    ]
    reward = Listed(scores)
    judged = judge(prompts, completions, reward)
    assert reward.asked == [(prompt.uid, index) for prompt in prompts for index in range(num_generations)]
    return judged


def test_rewards_stay_with_their_completions() -> None:
    assert [group.rewards for group in groups([1.0, 0.0, 0.25, 0.5])] == [(1.0, 0.0), (0.25, 0.5)]


def test_a_dropped_completion_takes_the_mean_of_its_groups_others() -> None:
    first, second = groups([None, 1.0, None, None])
    assert (first.rewards, first.num_dropped, first.is_mixed) == ((1.0, 1.0), 1, False)
    assert (second.rewards, second.num_dropped, second.is_mixed) == ((0.0, 0.0), 2, False)


def test_equal_rewards_stay_equal_beside_a_dropped_one() -> None:
    for reward in (0.1, 0.7, 1 / 3, 0.9 + 0.1 * 0.3):
        assert not groups([None, reward, reward, reward], num_generations=4)[0].is_mixed
