"""The numbers that follow from a specification and the sizes of its data. Pure."""

from collections.abc import Mapping
from typing import assert_never

from service.contract.plan import StagePlan
from service.contract.spec import ExperimentSpec
from service.contract.stages import RlSpec, SftSpec, StageName
from service.planning.step_checks import num_sft_steps


def plan_stages(spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> list[StagePlan]:
    """Every stage in its order; `num_rows` is the size of each data set by `sft`, `rl`, `evaluation`.

    What follows from a size that is not known (None) is left out, and steps that depend on one are 0.
    """
    return [_plan_stage(stage, spec, num_rows) for stage in spec.stage_names()]


def _plan_stage(stage: StageName, spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> StagePlan:
    match stage:
        case "sft":
            return _plan_sft(spec, num_rows)
        case "rl":
            assert spec.rl is not None, "stage_names names stages that the specification has"
            return _plan_rl(spec, spec.rl, num_rows["rl"])
        case "evaluate_base" | "evaluate_after_sft" | "evaluate_after_rl":
            return _plan_evaluation(stage, spec, num_rows)
        case _:
            assert_never(stage)


def num_trained_records(sft: SftSpec, num_records: int | None) -> int | None:
    """About what is left when the held-out share is taken away; hashes decide, so it is not exact."""
    return None if num_records is None else num_records - round(num_records * sft.holdout_fraction)


def _plan_sft(spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> StagePlan:
    """An estimate where the tokenizer or hashes decide: which samples are too long, and which are held out."""
    sft = spec.sft
    assert sft is not None, "stage_names names stages that the specification has"
    num_ranks = spec.resources.trainer.num_ranks
    max_tokens = sft.microbatch_tokens(on_gpu=spec.resources.trainer.num_gpus > 0)
    numbers: dict[str, float | int | str] = {
        "sequences_per_step": sft.batch_size,
        "ranks": num_ranks,
        "max_tokens_per_microbatch": max_tokens,
        "max_microbatches_per_step": _most_microbatches(sft, num_ranks, max_tokens),
    }
    num_records, num_samples = num_rows["sft"], num_trained_records(sft, num_rows["sft"])
    if num_records is None or num_samples is None:
        return StagePlan(stage="sft", num_steps=0, numbers=numbers)
    num_steps = num_sft_steps(sft, num_samples)
    known: dict[str, float | int | str] = {
        "samples": num_samples,
        "steps_per_epoch": num_steps // sft.num_epochs,
        "steps": num_steps,
        "checkpoints": -(-num_steps // sft.save_steps),
    }
    num_held_out = num_rows.get("sft_eval") if sft.eval_data else num_records - num_samples
    if sft.has_held_out and num_held_out is not None:
        known |= {
            "held_out": num_held_out,
            "held_out_measured": min(num_held_out, sft.num_eval_samples or num_held_out),
            "measurements": len({0, num_steps, *range(0, num_steps, sft.eval_steps or num_steps)}),
        }
    return StagePlan(stage="sft", num_steps=num_steps, numbers=known | numbers)


def _most_microbatches(sft: SftSpec, num_ranks: int, max_tokens: int) -> int:
    """Of one rank, if every sample were of full length."""
    samples_per_rank = -(-sft.batch_size // num_ranks)
    return -(-samples_per_rank // max(1, max_tokens // (sft.max_length - 1)))


def _plan_rl(spec: ExperimentSpec, rl: RlSpec, num_prompts: int | None) -> StagePlan:
    known: dict[str, float | int | str] = {}
    if num_prompts is not None:
        # With a filter a step owns the prompts of all generations that it may need.
        asked = rl.num_steps * rl.num_prompts_per_step * rl.dynamic_sampling.max_gen_batches
        known = {"prompts": num_prompts, "epochs_over_prompts": round(asked / num_prompts, 4)}
    if rl.dynamic_sampling.mode == "filter":
        known |= {"max_gen_batches_per_step": rl.dynamic_sampling.max_gen_batches}
    if rl.mode == "async":
        known |= {
            "mode": rl.mode,
            "max_staleness": rl.num_steps_ahead,
            "max_samples_ahead": rl.num_steps_ahead * rl.num_samples_per_step * rl.dynamic_sampling.max_gen_batches,
        }
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
            "max_tokens_per_microbatch": rl.microbatch_tokens(on_gpu=spec.resources.trainer.num_gpus > 0),
            "engines": spec.resources.rollout.num_engines,
        },
    )


def _plan_evaluation(stage: StageName, spec: ExperimentSpec, num_rows: Mapping[str, int | None]) -> StagePlan:
    sets = spec.evaluation_sets()
    sizes = {where: size for where in sets if (size := num_rows[where]) is not None}
    known: dict[str, float | int | str] = {}
    if len(sizes) == len(sets):
        num_samples = sum(size * sets[where].num_generations for where, size in sizes.items())
        known = {"prompts": sum(sizes.values()), "samples": num_samples}
    if len(sets) > 1:
        known |= {"sets": len(sets)}
    return StagePlan(
        stage=stage,
        num_steps=int(known.get("prompts", 0)),  # a step of an evaluation is one prompt
        numbers=known
        | {
            "samples_per_prompt": sets["evaluation"].num_generations,
            "engines": spec.resources.rollout.num_engines,
        },
    )
