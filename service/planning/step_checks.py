"""Settings that name steps, against the number of steps that a stage will have. Pure."""

from collections.abc import Iterator

from service.contract.spec import ExperimentSpec
from service.contract.stages import OptimizerSpec, SftSpec
from service.planning.findings import Finding


def num_sft_steps(sft: SftSpec, num_records: int) -> int:
    """Optimizer steps if so many records are trained; the last, smaller batch of an epoch is a step too."""
    return -(-num_records // sft.batch_size) * sft.num_epochs


def find_steps_beyond(spec: ExperimentSpec, num_sft_records: int | None) -> Iterator[Finding]:
    """Evaluations after steps of SFT that cannot come, even if no record is dropped or held out."""
    if spec.sft is None or spec.evaluation is None or not num_sft_records:
        return
    most = num_sft_steps(spec.sft, num_sft_records)
    beyond = [step for step in spec.evaluation.sft_steps if step > most]
    if beyond:
        problem = f"{', '.join(map(str, beyond))}: SFT has {most} steps at most"
        hint = f"give steps up to {most}, or point 'after_sft' for its end"
        yield Finding(field="evaluation.sft_steps", problem=problem, hint=hint)


def warn_of_steps(spec: ExperimentSpec, num_sft_records: int | None) -> Iterator[str]:
    """Settings that never act because the stage ends before; `num_sft_records` is what is left to train."""
    if spec.sft and num_sft_records:
        num_steps = num_sft_steps(spec.sft, num_sft_records)
        yield from _warn_of_warmup("sft", spec.sft.optimizer, num_steps)
        if spec.sft.eval_steps is not None and spec.sft.eval_steps >= num_steps:
            yield (
                f"sft.eval_steps {spec.sft.eval_steps} is not reached before the end of {num_steps} steps: held-out "
                "samples are measured before the first and after the last step only"
            )
    if spec.rl:
        yield from _warn_of_warmup("rl", spec.rl.optimizer, spec.rl.num_steps)
        every = spec.evaluation.rl_eval_steps if spec.evaluation else None
        if every is not None and every >= spec.rl.num_steps:
            yield (
                f"evaluation.rl_eval_steps {every} is not reached before the end of {spec.rl.num_steps} steps: the set "
                "is sampled at its points only"
            )


def _warn_of_warmup(stage: str, optimizer: OptimizerSpec, num_steps: int) -> Iterator[str]:
    if optimizer.warmup_steps is not None and optimizer.warmup_steps >= num_steps:
        yield (
            f"{stage}.optimizer.warmup_steps {optimizer.warmup_steps} covers all {num_steps} steps: the learning rate "
            "only rises, and the schedule behind the warm-up never acts"
        )
