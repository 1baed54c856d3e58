"""The numbers that follow from a specification and the sizes of its data. Pure."""

from collections.abc import Mapping
from typing import assert_never

from service.contract.plan import StagePlan
from service.contract.spec import ExperimentSpec
from service.contract.stages import EvaluationSpec, RlSpec, SftSpec, StageName


def plan_stages(spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> list[StagePlan]:
    """Every stage in its order; `num_rows` is the size of each data set by `sft`, `rl`, `evaluation`.

    What follows from a size that is not known (None) is left out, and steps that depend on one are 0.
    """
    return [_plan_stage(stage, spec, num_rows) for stage in spec.stage_names()]


def _plan_stage(stage: StageName, spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> StagePlan:
    match stage:
        case "sft":
            assert spec.sft is not None, "stage_names names stages that the specification has"
            return _plan_sft(spec.sft, num_rows["sft"])
        case "rl":
            assert spec.rl is not None, "stage_names names stages that the specification has"
            return _plan_rl(spec.rl, num_rows["rl"])
        case "evaluate_base" | "evaluate_after_sft" | "evaluate_after_rl":
            assert spec.evaluation is not None, "stage_names names stages that the specification has"
            return _plan_evaluation(stage, spec.evaluation, num_rows["evaluation"])
        case _:
            assert_never(stage)


def _plan_sft(sft: SftSpec, num_records: int | None) -> StagePlan:
    """An estimate where the tokenizer or hashes decide: which samples are too long, and which are held out."""
    known: dict[str, float | int | str] = {}
    num_steps = 0
    if num_records is not None:
        num_held_out = round(num_records * sft.holdout_fraction)
        steps_per_epoch = -(-(num_records - num_held_out) // sft.batch_size)
        num_steps = steps_per_epoch * sft.num_epochs
        known = {"samples": num_records - num_held_out, "steps_per_epoch": steps_per_epoch, "steps": num_steps}
        if num_held_out:
            known["held_out"] = num_held_out
    return StagePlan(
        stage="sft",
        num_steps=num_steps,
        numbers=known
        | {"sequences_per_step": sft.batch_size, "max_tokens_per_microbatch": sft.max_tokens_per_microbatch},
    )


def _plan_rl(rl: RlSpec, num_prompts: int | None) -> StagePlan:
    known: dict[str, float | int | str] = {}
    if num_prompts is not None:
        epochs = round(rl.num_steps * rl.num_prompts_per_step / num_prompts, 4)
        known = {"prompts": num_prompts, "epochs_over_prompts": epochs}
    updates_per_step = rl.num_samples_per_step // rl.num_sequences_per_update * rl.num_iterations
    return StagePlan(
        stage="rl",
        num_steps=rl.num_steps,
        numbers=known
        | {
            "prompts_per_step": rl.num_prompts_per_step,
            "samples_per_step": rl.num_samples_per_step,
            "updates_per_step": updates_per_step,
            "total_updates": updates_per_step * rl.num_steps,
            "total_samples": rl.num_samples_per_step * rl.num_steps,
            "max_tokens_per_microbatch": rl.max_tokens_per_microbatch,
        },
    )


def _plan_evaluation(stage: StageName, evaluation: EvaluationSpec, num_prompts: int | None) -> StagePlan:
    known: dict[str, float | int | str] = {}
    if num_prompts is not None:
        known = {"prompts": num_prompts, "samples": num_prompts * evaluation.num_generations}
    return StagePlan(
        stage=stage,
        num_steps=num_prompts or 0,  # a step of an evaluation is one prompt
        numbers=known | {"samples_per_prompt": evaluation.num_generations},
    )
