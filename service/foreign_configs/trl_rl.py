"""TRL: the stage of reinforcement learning, a `GRPOConfig` with the arguments of `trl grpo`."""

from collections.abc import Mapping
from typing import Any

from service.contract.imports import ImportRequest
from service.foreign_configs.reading import Reading, as_flag, as_number, as_whole
from service.foreign_configs.rules import NoEquivalent, NotNeeded, Rule, Same, not_needed
from service.foreign_configs.trl_rewards import take_rewards
from service.foreign_configs.trl_shared import take_common, take_data, tell_data

_SAMPLING = "rollouts are drawn from the policy's whole distribution, so that ratios are those of the policy"
_LOSSES: Mapping[str, tuple[str, str]] = {
    "grpo": ("ppo_clip", "seq-mean-token-mean"),
    "dr_grpo": ("ppo_clip", "seq-mean-token-sum-norm"),
    "dapo": ("ppo_clip", "token-mean"),
    "bnpo": ("ppo_clip", "token-mean"),
    "cispo": ("cispo", "token-mean"),
}


def _scale(value: Any) -> str:
    if isinstance(value, bool) or str(value).lower() in ("true", "false"):
        return "group" if as_flag(value) else "none"
    if value not in ("group", "batch", "none"):
        raise ValueError(f"rewards are scaled by group, batch or none, not {value!r}")
    return str(value)


_RL: tuple[Rule, ...] = (
    Same("num_generations", "rl.num_generations", 8, as_whole),
    Same("temperature", "rl.temperature", 1.0, as_number),
    Same("beta", "rl.beta", 0.0, as_number),
    Same("num_iterations", "rl.num_iterations", 1, as_whole),
    Same("epsilon", "rl.epsilon_low", 0.2, as_number),
    Same("delta", "rl.delta", convert=as_number),
    Same("scale_rewards", "rl.scale_rewards", "group", _scale),
    Same("mask_truncated_completions", "rl.mask_truncated_completions", False, as_flag),
    Same("entropy_coef", "rl.entropy_coef", 0.0, as_number),
    NoEquivalent("top_p", _SAMPLING, "leave it out", (1.0,)),
    NoEquivalent("top_k", _SAMPLING, "leave it out", (0, -1, None)),
    NoEquivalent("min_p", _SAMPLING, "leave it out", (None, 0.0)),
    NoEquivalent("repetition_penalty", _SAMPLING, "leave it out", (1.0,)),
    NoEquivalent("generation_kwargs.*", _SAMPLING, "leave it out"),
    NoEquivalent("generation_kwargs", _SAMPLING, "leave it out", (None, {})),
    NoEquivalent("chat_template_kwargs", "variables stand with the data", "set rl.data.chat.variables", (None, {})),
    NoEquivalent("chat_template_kwargs.*", "variables stand with the data", "set rl.data.chat.variables"),
    NoEquivalent("vllm_structured_outputs_regex", "completions are free", "reward the form with a regex part", (None,)),
    NoEquivalent("sync_ref_model", "the reference stays as it was when the stage began", "leave it out", (False,)),
    *not_needed("only of a reference that moves", "ref_model_mixup_alpha", "ref_model_sync_steps"),
    NoEquivalent("top_entropy_quantile", "every token is trained", "leave it out", (1.0,)),
    NoEquivalent("use_adaptive_entropy", "the entropy's factor stays", "set rl.entropy_coef", (False,)),
    *not_needed(
        "only of the adaptive entropy factor",
        "entropy_coef_min",
        "entropy_coef_max",
        "entropy_coef_delta",
        "entropy_target",
    ),
    NoEquivalent(
        "off_policy_mask_threshold", "no sequence is masked by its divergence", "see rollout_correction", (None,)
    ),
    NoEquivalent(
        "multi_objective_aggregation",
        "parts are added, then scaled",
        "leave it out",
        ("sum_then_normalize",),
    ),
    NoEquivalent("max_tool_calling_iterations", "completions are single turns", "leave it out", (None,)),
    *not_needed(
        "only of other losses",
        "sapo_temperature_neg",
        "sapo_temperature_pos",
        "vespo_k_pos",
        "vespo_k_neg",
        "vespo_lambda_pos",
        "vespo_lambda_neg",
    ),
    NoEquivalent("shuffle_dataset", "prompts come in a random order", "leave it out", (True,)),
    NoEquivalent(
        "chat_template_path", "a template stands in the specification", "put its text into rl.data.chat.template"
    ),
    *not_needed(
        "rollouts always come from vLLM actors, whose place and talk are the service's",
        "vllm_model_impl",
        "vllm_enable_sleep_mode",
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
        "vllm_group_port",
        "use_transformers_continuous_batching",
        "use_transformers_paged",
        "transformers_continuous_batching_config",
        "use_vllm",
    ),
    NotNeeded("max_prompt_length", "prompts are never cut; model.max_model_len bounds them"),
    NotNeeded("eval_delay", "evaluations stand in the specification"),
    *not_needed("the stage ends with its last step's weights", "load_best_model_at_end", "metric_for_best_model"),
    NotNeeded("greater_is_better", "the stage ends with its last step's weights"),
    NoEquivalent("label_smoothing_factor", "no labels are smoothed in RL", "leave it out", (0.0,)),
    NoEquivalent("neftune_noise_alpha", "noise on embeddings is of SFT alone", "leave it out", (None,)),
)


def read_trl_rl(reading: Reading, request: ImportRequest) -> None:
    """Everything of the RL stage, with its evaluation where the file asks for one."""
    take_common(reading, "rl")
    data = take_data(reading, "dataset_train_split", "train")
    if data is not None:
        reading.put("rl.data", data)
    tell_data(reading, data, "rl.data")
    take_rewards(reading)
    reading.apply(_RL)
    _take_upper_clip(reading)
    _take_loss(reading)
    _take_lengths(reading)
    _take_batches(reading, request)
    _take_correction(reading)
    _take_placement(reading, request)
    _take_evaluation(reading)
    if reading.number("beta", 0.0) and reading.flag("use_bias_correction_kl", True):
        reason, remedy = "the KL term's gradient is that of kl_estimator, without a ratio", "see docs/rl.md"
        reading.tell("use_bias_correction_kl", "no_equivalent", default=True, reason=reason, remedy=remedy)
    reading.read("use_bias_correction_kl", "rl.beta", "there is no KL term")


def _take_upper_clip(reading: Reading) -> None:
    """TRL's upper clip is the lower one unless it is given."""
    low = reading.number("epsilon", 0.2)
    high = reading.number("epsilon_high", low)
    reading.take("epsilon_high", "rl.epsilon_high", high, default=low, reason="TRL: as epsilon, unless given")


def _take_loss(reading: Reading) -> None:
    name = str(reading.value("loss_type", "dapo"))
    level = str(reading.value("importance_sampling_level", "token"))
    if name not in _LOSSES:
        reason = f"there is no policy loss {name!r}"
        reading.tell("loss_type", "no_equivalent", reason=reason, remedy="set rl.policy_loss and rl.loss_agg_mode")
    else:
        policy_loss, aggregation = _LOSSES[name]
        if level == "sequence":
            policy_loss = "gspo"
        reading.put("rl.policy_loss", policy_loss)
        reason = "TRL's denominator is that of one process, here the whole update's" if name == "bnpo" else ""
        reading.take("loss_type", "rl.loss_agg_mode", aggregation, default="dapo", reason=reason)
    if level not in ("token", "sequence"):
        reading.tell(
            "importance_sampling_level", "no_equivalent", reason=f"ratios are of tokens or sequences, not {level}"
        )
    reading.read("importance_sampling_level", "rl.policy_loss", "sequence is GSPO")


def _take_lengths(reading: Reading) -> None:
    length = reading.whole("max_completion_length", 512)
    reading.take("max_completion_length", "rl.max_completion_length", length, default=512)
    known = reading.body.get("model", {}).get("max_model_len", 0)
    if reading.has("vllm_max_model_length") or reading.has("max_prompt_length"):
        key = "vllm_max_model_length" if reading.has("vllm_max_model_length") else "max_prompt_length"
        context = reading.whole(key, 0) + (0 if key.startswith("vllm") else length)
        reading.take(key, "model.max_model_len", max(context, known), reason="tokens of prompt and completion")
        return
    reading.put("model.max_model_len", max(known, 2048, 2 * length))
    reading.tell(
        "(context length)",
        "assumed",
        field="model.max_model_len",
        becomes=max(known, 2048, 2 * length),
        reason="TRL takes the model's own limit",
        remedy="set it to the longest prompt plus rl.max_completion_length",
    )


def _take_batches(reading: Reading, request: ImportRequest) -> None:
    """A generation batch counts completions; so does an optimizer update."""
    processes = request.num_devices or 1
    per_device = reading.whole("per_device_train_batch_size", 8)
    accumulated = reading.whole("gradient_accumulation_steps", 1)
    update = per_device * accumulated * processes
    micro_steps = reading.whole("steps_per_generation", accumulated)
    generated = reading.whole("generation_batch_size", per_device * processes * micro_steps)
    group = reading.whole("num_generations", 8)
    how = f"{generated} completions of a generation, {group} for each prompt"
    reading.put("rl.mini_batch_size", update)
    key = "generation_batch_size" if reading.has("generation_batch_size") else "per_device_train_batch_size"
    if generated % group:
        reason = f"{generated} completions are no whole groups of {group}"
        reading.tell(
            key, "no_equivalent", default=8, reason=reason, remedy="give --num-devices, or set rl.num_prompts_per_step"
        )
    else:
        reading.take(key, "rl.num_prompts_per_step", generated // group, default=8, reason=how)
    for one in ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"):
        reading.read(one, "rl.mini_batch_size", how)
    _take_steps(reading, request, updates=max(1, generated // update) * reading.whole("num_iterations", 1))


def _take_steps(reading: Reading, request: ImportRequest, *, updates: int) -> None:
    """TRL counts optimizer updates, a step here is a round of rollouts with all its updates."""
    max_steps = reading.whole("max_steps", -1)
    epochs = reading.number("num_train_epochs", 3.0)
    prompts = reading.body["rl"].get("num_prompts_per_step")
    if max_steps > 0:
        reason = f"{max_steps} optimizer updates, {updates} a round"
        reading.take("max_steps", "rl.num_steps", max(1, max_steps // updates), reason=reason)
    elif request.num_rl_rows and prompts:
        reason = f"{epochs:g} passes over {request.num_rl_rows} rows, {prompts} a step"
        steps = max(1, int(epochs * request.num_rl_rows / prompts))
        reading.take("num_train_epochs", "rl.num_steps", steps, default=3.0, reason=reason)
    else:
        reason = "RL counts steps, and the number of rows is not in the file"
        remedy = "give --rl-rows, or set rl.num_steps"
        reading.tell("num_train_epochs", "no_equivalent", default=3.0, reason=reason, remedy=remedy)
    reading.read("num_train_epochs", "rl.num_steps", "max_steps counts")
    reading.read("max_steps", "rl.num_steps", "not set: the epochs count")


def _take_correction(reading: Reading) -> None:
    names = ("correction", "mode", "clip_max", "clip_min", "cap")
    keys = [f"vllm_importance_sampling_{name}" for name in names]
    if not reading.flag("use_vllm", False) or not reading.flag(keys[0], True):
        for key in keys:
            if reading.has(key):
                reading.tell(key, "not_needed", reason="TRL does not correct in this run")
        return
    mode = str(reading.value(keys[1], "sequence_mask"))
    cap = next((key for key in (keys[2], keys[4]) if reading.has(key)), keys[2])
    correction: dict[str, Any] = {"mode": mode, "max": float(reading.number(cap, 3.0))}
    if reading.has(keys[3]) and mode.endswith("_mask"):
        correction["min"] = float(reading.number(keys[3], 0.0))
    elif reading.has(keys[3]):
        reading.tell(keys[3], "no_equivalent", reason="truncated ratios have no lower bound", remedy="take a mask")
    reading.take(keys[1], "rl.rollout_correction", correction, default="sequence_mask")
    for key in keys:
        reading.read(key, "rl.rollout_correction", "part of it")


def _take_placement(reading: Reading, request: ImportRequest) -> None:
    mode = str(reading.value("vllm_mode", "colocate"))
    gpus = request.num_devices is not None and not reading.flag("use_cpu", False)
    share = float(reading.number("vllm_gpu_memory_utilization", 0.3))
    if request.num_devices is None:
        reason, remedy = "accelerate knows it, the file does not", "give --num-devices: it changes batch sizes and GPUs"
        reading.tell("(number of processes)", "assumed", field="resources", becomes=1, reason=reason, remedy=remedy)
    else:
        reading.put("resources.trainer.num_ranks", request.num_devices)
        shared = mode == "colocate"
        engines = request.num_devices if shared else 1
        reading.put("resources.rollout.num_engines", engines)
        if gpus:
            reading.put("resources.trainer.num_gpus", round(1 - share, 4) if shared else 1.0)
            reading.put("resources.rollout.num_gpus", share if shared else 1.0)
        reading.put("resources.placement", "colocated" if shared else "disaggregated")
    for key in ("vllm_mode", "vllm_gpu_memory_utilization"):
        reading.read(key, "resources", "where trainer and engines work" if gpus else "of GPUs: give --num-devices")
    rule = NoEquivalent("vllm_tensor_parallel_size", "a colocated engine holds one GPU", "see docs/ranks.md", (1,))
    reading.apply((rule,))


def _take_evaluation(reading: Reading) -> None:
    strategy = str(reading.value("eval_strategy", "no"))
    keys = ("eval_strategy", "eval_steps", "eval_on_start", "num_generations_eval", "dataset_test_split")
    data = None if strategy == "no" else take_data(reading, "dataset_test_split", "test")
    rl = reading.body["rl"]
    if data is None or "reward" not in rl:
        for key in keys:
            if reading.has(key):
                reading.tell(
                    key, "not_needed", reason="no evaluation: it has no data, no reward, or eval_strategy is no"
                )
        return
    group = reading.whole("num_generations_eval", reading.whole("num_generations", 8))
    evaluation: dict[str, Any] = {
        "data": {**{key: rl["data"][key] for key in ("answer_field",) if key in rl.get("data", {})}, **data},
        "reward": rl["reward"],
        "num_generations": group,
        "pass_at_k": sorted({1, group}),
        "temperature": rl["temperature"],
        "max_completion_length": rl["max_completion_length"],
        "points": ["base", "after_rl"] if reading.flag("eval_on_start", False) else ["after_rl"],
    }
    if strategy == "steps":
        evaluation["rl_eval_steps"] = max(1, int(reading.number("eval_steps", reading.number("logging_steps", 10))))
    reading.put("evaluation", evaluation)
    for key in keys:
        reading.read(key, "evaluation", "completions of held-out prompts are judged")
