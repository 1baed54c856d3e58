"""Every metric once: its name, unit, the stage that writes it, which way is better, and one line on what it means.

Names are the field's (`group/name`, statistics as the last part). `{set}` stands for the evaluation's name, `{k}` for a
number of samples, `{n}` for a number of words, `{part}` for a part of a combined reward.
"""

from dataclasses import dataclass
from re import escape, fullmatch, sub
from typing import Literal

Better = Literal["up", "down", "neither"]
MetricStage = Literal["sft", "rl", "evaluate", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a reader needs to know about a metric."""

    name: str
    unit: str
    stage: MetricStage
    better: Better
    meaning: str


def _metric(stage: MetricStage, name: str, unit: str, better: Better, meaning: str) -> Metric:
    return Metric(name=name, unit=unit, stage=stage, better=better, meaning=meaning)


METRICS: tuple[Metric, ...] = (
    _metric(
        "sft",
        "sft/loss",
        "nats/token",
        "down",
        "objective per label token; not comparable between objectives, and negative for some",
    ),
    _metric("sft", "sft/nll", "nats/token", "down", "cross entropy per label token; comparable between objectives"),
    _metric("sft", "sft/entropy", "nats", "neither", "mean entropy of the next-token distribution at label tokens"),
    _metric("sft", "sft/mean_token_accuracy", "fraction", "up", "label tokens that are the likeliest token"),
    _metric("sft", "sft/learning_rate", "1", "neither", "learning rate of the step"),
    _metric("sft", "sft/grad_norm", "1", "neither", "gradient norm before clipping"),
    _metric("sft", "sft/num_tokens", "tokens", "neither", "label tokens of the step"),
    _metric("sft", "sft/epoch", "epochs", "neither", "epochs finished, as a fraction"),
    _metric("sft", "sft/sed/penalised_fraction", "fraction", "neither", "label tokens whose top-k mass lies below tau"),
    _metric("sft", "sft/sed/mean_weight", "1", "neither", "mean factor that SED puts on the cross-entropy gradient"),
    _metric("sft", "sft/sed/extra_loss", "nats/token", "neither", "SED's penalty per label token"),
    _metric("sft", "sft/sed/penalised/prob", "fraction", "neither", "mean label probability of penalised tokens"),
    _metric("sft", "sft/sed/penalised/entropy", "nats", "neither", "mean entropy at penalised tokens"),
    _metric("sft", "sft/sed/kept/prob", "fraction", "neither", "mean label probability of tokens without a penalty"),
    _metric("sft", "sft/sed/kept/entropy", "nats", "neither", "mean entropy at tokens without a penalty"),
    _metric("sft", "sft/sed/topk_mass/p10", "fraction", "neither", "10 % of the step's tokens have less top-k mass"),
    _metric("sft", "sft/sed/topk_mass/p50", "fraction", "neither", "median top-k mass, from a 1,000-bin histogram"),
    _metric("sft", "sft/sed/topk_mass/p90", "fraction", "neither", "90 % of the step's tokens have less top-k mass"),
    _metric("sft", "sft/reference/kl", "nats", "neither", "mean KL(p || p_ref) to the model that the stage began with"),
    _metric("sft", "sft/eksft/entropy_fraction", "fraction", "neither", "label tokens in the step's entropy set"),
    _metric("sft", "sft/eksft/kl_fraction", "fraction", "neither", "label tokens in the step's KL set"),
    _metric("sft", "sft/sed/tau", "fraction", "neither", "threshold on the top-k mass; fixed for the run"),
    _metric("sft", "sft/eval/nll", "nats/token", "down", "cross entropy per label token of the held-out samples"),
    _metric("sft", "sft/eval/entropy", "nats", "neither", "mean entropy at the held-out samples' label tokens"),
    _metric("sft", "sft/eval/mean_token_accuracy", "fraction", "up", "held-out label tokens that are the likeliest"),
    _metric(
        "sft",
        "sft/eval/sed/penalised_fraction",
        "fraction",
        "neither",
        "held-out label tokens whose top-k mass lies below tau",
    ),
    _metric("rl", "gate/reward", "reward", "up", "mean reward over the probe before the first step"),
    _metric("rl", "gate/clipped_ratio", "fraction", "down", "completions of the probe cut at the length limit"),
    _metric("rl", "gate/frac_reward_zero_std", "fraction", "down", "groups of the probe whose rewards are all equal"),
    _metric("rl", "gate/mean_length", "tokens", "neither", "mean completion length of the probe"),
    _metric("rl", "reward/mean", "reward", "up", "mean reward over the step's completions"),
    _metric("rl", "reward/std", "reward", "neither", "standard deviation of the reward over the step's completions"),
    _metric("rl", "reward/num_errors", "samples", "down", "samples of the step that a reward could not judge"),
    _metric("rl", "reward/num_timeouts", "samples", "down", "those among them that took longer than timeout_s"),
    _metric("rl", "reward/num_dropped", "samples", "down", "those that on_error 'drop' gave the mean of their group"),
    _metric("rl", "rewards/{part}/mean", "reward", "up", "mean of one part of a combined reward, without its weight"),
    _metric("rl", "reward/audit/num_samples", "samples", "neither", "samples that the auditor was asked about"),
    _metric("rl", "reward/audit/num_errors", "samples", "down", "audited samples that the auditor could not judge"),
    _metric("rl", "reward/audit/disagreement", "fraction", "down", "audited samples on which the verifiers disagree"),
    _metric("rl", "group/frac_reward_zero_std", "fraction", "down", "groups whose rewards are all equal: no signal"),
    _metric(
        "rl", "group/frac_all_correct", "fraction", "neither", "groups whose completions all earned the full reward"
    ),
    _metric("rl", "group/frac_all_wrong", "fraction", "down", "groups in which no completion earned a reward"),
    _metric("rl", "completions/mean_length", "tokens", "neither", "mean completion length, end token included"),
    _metric("rl", "completions/min_length", "tokens", "neither", "shortest completion"),
    _metric("rl", "completions/max_length", "tokens", "neither", "longest completion"),
    _metric("rl", "completions/clipped_ratio", "fraction", "down", "completions cut at the length limit"),
    _metric("rl", "completions/masked_ratio", "fraction", "down", "trained groups' completions left out as cut ones"),
    _metric("rl", "reward/overlong_penalty", "reward", "neither", "mean of what lengths add to the rewards, at most 0"),
    _metric("rl", "dynamic_sampling/num_gen_batches", "batches", "down", "generations of the step"),
    _metric("rl", "dynamic_sampling/num_without_signal", "groups", "down", "generated groups without a signal"),
    _metric("rl", "dynamic_sampling/num_replaced", "groups", "down", "trained groups that are copies of others"),
    _metric("rl", "dynamic_sampling/num_unfilled", "groups", "down", "groups without a signal that were trained"),
    _metric("rl", "actor/pg_loss", "1", "neither", "policy loss, corrected, averaged as loss_agg_mode says"),
    _metric("rl", "actor/kl_loss", "nats", "neither", "estimate of the divergence from the policy that RL began with"),
    _metric("rl", "actor/clip_ratio/low", "fraction", "neither", "tokens clipped at 1 - epsilon_low"),
    _metric("rl", "actor/clip_ratio/high", "fraction", "neither", "tokens clipped at 1 + epsilon_high or delta"),
    _metric("rl", "actor/ppo_kl", "nats", "neither", "mean log-prob of the old minus the new policy on sampled tokens"),
    _metric("rl", "actor/entropy", "nats", "neither", "mean entropy of the policy at completion tokens"),
    _metric("rl", "actor/grad_norm", "1", "neither", "gradient norm before clipping"),
    _metric("rl", "actor/lr", "1", "neither", "learning rate of the step"),
    _metric("rl", "sampling/logp_difference/mean", "nats", "down", "mean absolute log-prob gap, trainer against vLLM"),
    _metric("rl", "sampling/logp_difference/max", "nats", "down", "largest absolute log-prob gap of the step"),
    _metric("rl", "sampling/is_ratio_raw/mean", "1", "neither", "mean of trainer over vLLM probability, not clamped"),
    _metric("rl", "sampling/is_ratio_raw/min", "1", "neither", "smallest trainer over vLLM probability"),
    _metric("rl", "sampling/is_ratio_raw/max", "1", "neither", "largest trainer over vLLM probability"),
    _metric("rl", "sampling/is_ratio/mean", "1", "neither", "mean factor that rollout_correction puts on the loss"),
    _metric("rl", "sampling/is_ratio/min", "1", "neither", "smallest factor of rollout_correction"),
    _metric("rl", "sampling/is_ratio/max", "1", "neither", "largest factor of rollout_correction"),
    _metric("rl", "sampling/ess", "fraction", "up", "effective share of the tokens: (sum w)^2 / (N sum w^2)"),
    _metric("rl", "sampling/masked_fraction", "fraction", "down", "tokens that rollout_correction leaves out"),
    _metric("rl", "sampling/mismatch_kl", "nats", "down", "k3 estimate of the divergence between vLLM and trainer"),
    _metric("rl", "async/staleness/mean", "versions", "down", "mean age of trained groups, by their oldest tokens"),
    _metric("rl", "async/staleness/max", "versions", "down", "age of the oldest trained group"),
    _metric("rl", "async/mixed_ratio", "fraction", "neither", "trained completions that several policies have drawn"),
    _metric("rl", "async/dropped_stale", "groups", "down", "groups beyond max_staleness, which were made again"),
    _metric("rl", "engines/num_ready", "engines", "up", "rollout engines that took part when the step ended"),
    _metric("rl", "engines/num_reissued", "requests", "down", "requests asked again since their engine was lost"),
    _metric("rl", "training/policy_version", "versions", "neither", "weight updates that the rollout engine has taken"),
    _metric("rl", "training/num_tokens", "tokens", "neither", "completion tokens trained since the stage began"),
    _metric("rl", "timing_s/step", "s", "down", "wall time of the step"),
    _metric("rl", "timing_s/gen", "s", "down", "generation of the step's rollouts"),
    _metric("rl", "timing_s/reward", "s", "down", "judging the completions"),
    _metric("rl", "timing_s/wait_for_rollouts", "s", "down", "from the step's beginning until its rollouts are judged"),
    _metric("rl", "timing_s/rollout_idle", "s", "down", "of the step's time, that in which no rollout was generated"),
    _metric("rl", "timing_s/trainer_idle", "s", "down", "of the step's time, that without training or weight sync"),
    _metric("rl", "timing_s/update_actor", "s", "down", "forward, backward and optimizer"),
    _metric("rl", "timing_s/update_weights", "s", "down", "weights from the trainer into the rollout engine"),
    _metric("rl", "timing_s/weight_sync/pause", "s", "down", "freezing the engines' requests and letting them go on"),
    _metric("rl", "timing_s/weight_sync/gather", "s", "down", "bringing the ranks' parts of the weights together"),
    _metric("rl", "timing_s/weight_sync/transfer", "s", "down", "weights to where the engines can read them"),
    _metric("rl", "timing_s/weight_sync/load", "s", "down", "vLLM's loading and packing, of the slowest engine"),
    _metric("rl", "timing_s/weight_sync/verify", "s", "down", "probe and checksums, as far as they are waited for"),
    _metric(
        "rl",
        "weight_sync/probe_logprob_abs_diff_max",
        "nats",
        "down",
        "largest log-prob gap of the probe's tokens after the sync, trainer against any engine",
    ),
    _metric("rl", "perf/throughput", "tokens/s", "up", "completion tokens of the step over its wall time"),
    _metric("evaluate", "eval/{set}/avg@{k}", "fraction", "up", "mean reward over k samples a prompt"),
    _metric("evaluate", "eval/{set}/pass@{k}", "fraction", "up", "unbiased chance that one of k samples is right"),
    _metric("evaluate", "eval/{set}/maj@{k}", "fraction", "up", "chance that the commonest of k answers is right"),
    _metric("evaluate", "eval/{set}/mean_length", "tokens", "neither", "mean completion length"),
    _metric("evaluate", "eval/{set}/min_length", "tokens", "neither", "shortest completion"),
    _metric("evaluate", "eval/{set}/max_length", "tokens", "neither", "longest completion"),
    _metric("evaluate", "eval/{set}/clipped_ratio", "fraction", "down", "completions cut at the length limit"),
    _metric("evaluate", "eval/{set}/reward/num_errors", "samples", "down", "samples that a reward could not judge"),
    _metric("evaluate", "eval/{set}/reward/num_timeouts", "samples", "down", "those that took longer than timeout_s"),
    _metric("evaluate", "eval/{set}/reward/num_dropped", "samples", "down", "those whose prompts are left out"),
    _metric("evaluate", "eval/{set}/rewards/{part}/mean", "reward", "up", "mean of one part of a combined reward"),
    _metric("evaluate", "eval/{set}/reward/audit/num_samples", "samples", "neither", "samples that were audited"),
    _metric("evaluate", "eval/{set}/reward/audit/num_errors", "samples", "down", "audits without a verdict"),
    _metric("evaluate", "eval/{set}/reward/audit/disagreement", "fraction", "down", "audits with another verdict"),
    _metric("evaluate", "diversity/{set}/self_bleu", "0-100", "down", "BLEU of a sample against the prompt's others"),
    _metric(
        "evaluate",
        "diversity/{set}/distinct_answers@{k}",
        "answers",
        "up",
        "different completions among k samples a prompt",
    ),
    _metric(
        "evaluate",
        "diversity/{set}/distinct_correct@{k}",
        "answers",
        "up",
        "different right completions among k samples",
    ),
    _metric(
        "evaluate", "diversity/{set}/frac_mixed_groups", "fraction", "up", "prompts with both right and wrong samples"
    ),
    _metric(
        "evaluate",
        "diversity/{set}/distinct-{n}",
        "fraction",
        "up",
        "different runs of n words over all of them in a prompt's samples",
    ),
    _metric(
        "evaluate",
        "diversity/{set}/token_entropy",
        "nats",
        "neither",
        "mean of -log p over the sampled tokens: entropy of the next token, estimated",
    ),
    _metric(
        "evaluate",
        "diversity/{set}/sequence_entropy",
        "nats",
        "neither",
        "mean of -log p over the samples: entropy of a prompt's completion, estimated",
    ),
    _metric("any", "timing_s/stage", "s", "down", "wall time of a finished stage"),
)


def describe_metric(name: str) -> Metric | None:
    """The entry for a concrete name such as `eval/test/pass@8`, or None if nothing of that name is registered."""
    return next((metric for metric in METRICS if fullmatch(_pattern(metric.name), name)), None)


def _pattern(template: str) -> str:
    named = sub(r"\\\{(?:set|part)\\\}", r"[a-z0-9_-]+", escape(template))
    return sub(r"\\\{[kn]\\\}", r"\\d+", named)
