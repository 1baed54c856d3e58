"""The files of an experiment that has stored rollouts, written by the workers' own code."""

from service.contract.spec import ExperimentSpec
from workers.rollouts import Completion, Prompt, TrainingSample
from workers.stages.rollout_store import StepToStore, store_rollouts
from workers.stages.sampling import JudgedGroup

RL = {
    "data": {"path": "/data/rl.jsonl"},
    "reward": {
        "type": "combined",
        "parts": [
            {"name": "value", "weight": 0.5, "reward": {"type": "countdown"}},
            {"name": "form", "weight": 0.5, "reward": {"type": "exact_match"}},
        ],
    },
    "optimizer": {"learning_rate": 1e-3},
    "num_steps": 9,
    "num_prompts_per_step": 2,
    "num_generations": 4,
    "max_completion_length": 10,
    "rollout_store_steps": 3,
    "rollout_sample_size": 100,
}
"""Eight completions a step, all of them in the sample; every third step whole."""
SPEC = ExperimentSpec.model_validate({"name": "toy", "model": {"path": "/models/toy"}, "rl": RL})


def write_steps(output_dir: str, steps: range, spec: ExperimentSpec = SPEC) -> None:
    """Completion i of prompt u in step s: reward i/2, i + 1 tokens, one version old if i is 1, cut if i is 3."""
    for step in steps:
        groups = [_group(step, uid) for uid in (step % 3, 7)]
        samples = [
            TrainingSample(
                prompt_token_ids=group.prompt.token_ids,
                completion_token_ids=completion.token_ids,
                rollout_logprobs=completion.logprobs,
                advantage=reward - 0.75,
            )
            for group in groups
            for completion, reward in zip(group.completions, group.rewards, strict=True)
        ]
        trained = StepToStore(
            step=step, trained_version=step, generated=groups, groups=groups, samples=samples, metrics={"a": 1.0}
        )
        store_rollouts(output_dir, spec, trained)


def _group(step: int, uid: int) -> JudgedGroup:
    return JudgedGroup(
        prompt=Prompt(uid=uid, text=f"question {uid}", token_ids=(1, uid), answer=str(uid)),
        completions=tuple(
            Completion(
                prompt_uid=uid,
                sample_index=index,
                token_ids=tuple(range(index + 1)),
                logprobs=(-0.5,) * (index + 1),
                finish_reason="length" if index == 3 else "stop",
                text=f"Step {step} answers {'yes' if index % 2 else 'NO'} (100%)",
                policy_version=step - (index == 1),
            )
            for index in range(4)
        ),
        rewards=(0.0, 0.5, 1.0, 1.5),
        reward_parts=({"value": 0.0, "form": 0.0}, {"value": 1.0, "form": 0.0}, {"value": 1.0, "form": 1.0}, {}),
    )
