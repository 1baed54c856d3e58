"""verl: `main_ppo` with `data`, `actor_rollout_ref`, `algorithm` and `trainer`."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from service.contract.imports import ImportRequest, Outcome
from service.foreign_configs.reading import Reading
from service.foreign_configs.verl_options import HOW, RL_UNLIKE
from service.foreign_configs.verl_shared import take_clip, take_files, take_limit, take_lora, take_names, take_optimizer

_ACTOR = "actor_rollout_ref.actor."
_ROLLOUT = "actor_rollout_ref.rollout."
_MODEL = "actor_rollout_ref.model."
_CORRECTION = "algorithm.rollout_correction."
_ESTIMATORS = ("grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline")
_LOSSES: Mapping[str, str] = {"vanilla": "ppo_clip", "gspo": "gspo", "cispo": "cispo"}
_AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
_KL: Mapping[str, str] = {"kl": "k1", "k1": "k1", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}
_DUAL_CLIP = 3.0


def read_verl_rl(reading: Reading, request: ImportRequest) -> None:
    """Everything of the RL stage, with its evaluation where `test_freq` or `val_before_train` ask for one."""
    take_names(reading)
    _take_model(reading)
    _take_data(reading)
    _take_reward(reading)
    take_optimizer(reading, _ACTOR + "optim.", "rl", {"lr": 1e-6})
    take_clip(reading, (_ACTOR + "optim.clip_grad", _ACTOR + "grad_clip"), "rl")
    _take_advantages(reading)
    _take_loss(reading)
    _take_batches(reading)
    _take_steps(reading, request)
    _take_correction(reading)
    _take_evaluation(reading)
    _take_resources(reading)
    reading.apply(RL_UNLIKE)
    reading.apply(HOW)


def _take_model(reading: Reading) -> None:
    key = _MODEL + "path"
    known = reading.body.get("model", {}).get("path")
    if known is not None and reading.has(key):
        reason = f"this stage goes on from what SFT leaves, which began with {known}"
        reading.tell(key, "not_needed", reason=reason, remedy="see that the path is the SFT run's output")
    elif reading.has(key):
        reading.take(
            key, "model.path", str(reading.value(key)), remedy="a model is a folder; a hub name must be downloaded"
        )
    checkpointing = reading.flag(_MODEL + "enable_gradient_checkpointing", True)
    reading.take(_MODEL + "enable_gradient_checkpointing", "model.gradient_checkpointing", checkpointing, default=True)
    reading.put("model.dtype", "bfloat16")
    reading.tell("(dtype)", "default", field="model.dtype", becomes="bfloat16", reason="verl's passes are bfloat16")
    take_lora(reading, _MODEL)


def _take_data(reading: Reading) -> None:
    """verl's rows hold a conversation and, in `reward_model`, the gold answer."""
    extra = {
        "prompt_field": str(reading.value("data.prompt_key", "prompt")),
        "answer_field": "reward_model.ground_truth",
        "chat": {},
    }
    take_files(reading, "data.train_files", "rl.data", extra)
    take_limit(reading, "data.train_max_samples", "rl.data.num_rows")
    reading.read("data.prompt_key", "rl.data.prompt_field", "where the conversation stands")
    prompt, response = reading.whole("data.max_prompt_length", 512), reading.whole("data.max_response_length", 512)
    reading.take("data.max_response_length", "rl.max_completion_length", response, default=512)
    context = max(reading.whole(_ROLLOUT + "max_model_len", 0) or prompt + response, prompt + response)
    how = "tokens of prompt and completion"
    known = reading.body.get("model", {}).get("max_model_len", 0)
    reading.take("data.max_prompt_length", "model.max_model_len", max(context, known), default=512, reason=how)
    reading.read(_ROLLOUT + "max_model_len", "model.max_model_len", how)
    if reading.has("data.filter_overlong_prompts"):
        reason = "a prompt that leaves no room for a completion is refused"
        outcome: Outcome = "no_equivalent" if reading.flag("data.filter_overlong_prompts", False) else "not_needed"
        remedy = "drop such rows from the file" if outcome == "no_equivalent" else ""
        reading.tell("data.filter_overlong_prompts", outcome, reason=reason, remedy=remedy)


def _take_reward(reading: Reading) -> None:
    """verl chooses a scorer by each row's `data_source`; only an own function is named in the file."""
    for prefix in ("reward.custom_reward_function.", "custom_reward_function."):
        if reading.has(prefix + "path"):
            path = PurePosixPath(str(reading.value(prefix + "path")))
            name = str(reading.value(prefix + "name", "compute_score"))
            reward = {"type": "python_function", "function": f"{path.stem}:{name}"}
            if path.is_absolute():
                reward["working_dir"] = str(path.parent)
            remedy = "it is called as reward(prompt, completion, answer) here (docs/rewards.md)"
            reading.take(prefix + "path", "rl.reward", reward, remedy=remedy)
        for key in ("path", "name"):
            reading.read(prefix + key, "rl.reward", "the function")
    if "reward" not in reading.body["rl"]:
        reason = "verl takes the scorer that each row's data_source names"
        remedy = "set rl.reward, for example --set 'rl.reward={type: math_answer}' (docs/rewards.md)"
        reading.tell("data.reward_fn_key", "no_equivalent", default="data_source", reason=reason, remedy=remedy)
    reading.read("data.reward_fn_key", "rl.reward", "the function judges all rows")
    _take_overlong(reading)
    for key in ("reward.reward_manager.name", "reward_model.reward_manager"):
        if reading.has(key):
            known = reading.value(key) in ("naive", "dapo", "batch", "prime")
            reason = "completions are judged by rl.reward"
            reading.tell(key, "not_needed" if known else "no_equivalent", reason=reason)
    for key in (*reading.keys_under("reward.reward_manager."), *reading.keys_under("reward.reward_kwargs.")):
        reading.read(key, "rl.reward", "of the reward manager")


def _take_overlong(reading: Reading) -> None:
    for prefix in ("reward.reward_kwargs.overlong_buffer_cfg.", "reward_model.overlong_buffer."):
        if reading.flag(prefix + "enable", False):
            buffer = {
                "len": reading.whole(prefix + "len", 512),
                "penalty_factor": float(reading.number(prefix + "penalty_factor", 1.0)),
            }
            reading.take(prefix + "len", "rl.overlong_buffer", buffer)
        for key in reading.keys_under(prefix):
            reading.read(key, "rl.overlong_buffer", "of the buffer")


def _take_advantages(reading: Reading) -> None:
    name = str(reading.value("algorithm.adv_estimator", "gae"))
    scaled = reading.flag("algorithm.norm_adv_by_std_in_grpo", True)
    if name not in _ESTIMATORS:
        reason = f"there is no estimator {name!r}: advantages come from groups, without a critic"
        remedy = "set rl.adv_estimator, for example to grpo"
        reading.tell("algorithm.adv_estimator", "no_equivalent", default="gae", reason=reason, remedy=remedy)
    else:
        estimator = "dr_grpo" if name == "grpo" and not scaled else name
        reading.take("algorithm.adv_estimator", "rl.adv_estimator", estimator)
        if estimator == "grpo":
            reading.put("rl.scale_rewards", "group")
    reading.read("algorithm.norm_adv_by_std_in_grpo", "rl.adv_estimator", "dr_grpo is GRPO without the deviation")
    if reading.flag("algorithm.filter_groups.enable", False):
        most = reading.whole("algorithm.filter_groups.max_num_gen_batches", 10)
        sampling = {"mode": "filter", "max_gen_batches": max(2, most or 10)}
        reason = "verl's 0 is no bound; 10 here" if most <= 0 else ""
        reading.take("algorithm.filter_groups.enable", "rl.dynamic_sampling", sampling, reason=reason)
    for key in reading.keys_under("algorithm.filter_groups."):
        reading.read(key, "rl.dynamic_sampling", "groups whose rewards are all equal give no signal")


def _take_loss(reading: Reading) -> None:
    mode = str(reading.value(_ACTOR + "policy_loss.loss_mode", "vanilla"))
    if mode in _LOSSES:
        reading.take(_ACTOR + "policy_loss.loss_mode", "rl.policy_loss", _LOSSES[mode], default="vanilla")
    else:
        reason = f"there is no policy loss {mode!r}"
        reading.tell(_ACTOR + "policy_loss.loss_mode", "no_equivalent", reason=reason, remedy="set rl.policy_loss")
    aggregation = str(reading.value(_ACTOR + "loss_agg_mode", "token-mean"))
    if aggregation in _AGGREGATIONS:
        reading.take(_ACTOR + "loss_agg_mode", "rl.loss_agg_mode", aggregation, default="token-mean")
    else:
        reading.tell(_ACTOR + "loss_agg_mode", "no_equivalent", reason=f"there is no {aggregation!r}")
    both = reading.number(_ACTOR + "clip_ratio", 0.2)
    for side in ("low", "high"):
        bound = float(reading.number(f"{_ACTOR}clip_ratio_{side}", both))
        reading.take(f"{_ACTOR}clip_ratio_{side}", f"rl.epsilon_{side}", bound, default=both)
    reading.read(_ACTOR + "clip_ratio", "rl.epsilon_low", "where the bounds are not given one by one")
    if mode == "vanilla":
        dual = float(reading.number(_ACTOR + "clip_ratio_c", _DUAL_CLIP))
        reading.take(_ACTOR + "clip_ratio_c", "rl.delta", dual, default=_DUAL_CLIP, reason="verl always clips twice")
    reading.read(_ACTOR + "clip_ratio_c", "rl.policy_loss", "only of PPO's clip")
    entropy = float(reading.number(_ACTOR + "entropy_coeff", 0.0))
    reading.take(_ACTOR + "entropy_coeff", "rl.entropy_coef", entropy, default=0.0)
    _take_kl(reading)


def _take_kl(reading: Reading) -> None:
    used = reading.flag(_ACTOR + "use_kl_loss", False)
    factor = float(reading.number(_ACTOR + "kl_loss_coef", 0.001)) if used else 0.0
    reading.take(_ACTOR + "use_kl_loss", "rl.beta", factor, default=False)
    kind = str(reading.value(_ACTOR + "kl_loss_type", "low_var_kl")).removesuffix("+")
    if used and kind in _KL:
        reading.take(_ACTOR + "kl_loss_type", "rl.kl_estimator", _KL[kind], default="low_var_kl")
    elif used:
        reading.tell(
            _ACTOR + "kl_loss_type", "no_equivalent", reason=f"there is no estimator {kind!r}", remedy="k1, k2 or k3"
        )
    for key in ("kl_loss_coef", "kl_loss_type"):
        reading.read(_ACTOR + key, "rl.beta", "of the KL term" if used else "use_kl_loss is off")


def _take_batches(reading: Reading) -> None:
    prompts = reading.whole("data.train_batch_size", 1024)
    group = reading.whole(_ROLLOUT + "n", 1)
    reading.take("data.train_batch_size", "rl.num_prompts_per_step", prompts, default=1024)
    reading.take(_ROLLOUT + "n", "rl.num_generations", group, default=1)
    key = _ACTOR + "ppo_mini_batch_size"
    mini = reading.whole(key, 256) * group
    how = f"verl counts prompts, here it counts sequences: x {group}"
    reading.take(key, "rl.mini_batch_size", min(mini, prompts * group), default=256, reason=how)
    iterations = reading.whole(_ACTOR + "ppo_epochs", 1)
    reading.take(_ACTOR + "ppo_epochs", "rl.num_iterations", iterations, default=1)
    temperature = float(reading.number(_ROLLOUT + "temperature", 1.0))
    reading.take(_ROLLOUT + "temperature", "rl.temperature", temperature, default=1.0)
    tokens = _ACTOR + "ppo_max_token_len_per_gpu"
    if reading.flag(_ACTOR + "use_dynamic_bsz", False) and reading.has(tokens):
        reading.take(tokens, "rl.max_tokens_per_microbatch", reading.whole(tokens, 16384))
    for one in (tokens, _ACTOR + "use_dynamic_bsz"):
        reading.read(one, "rl.max_tokens_per_microbatch", "tokens of a pass, which change no gradient")


def _take_steps(reading: Reading, request: ImportRequest) -> None:
    steps = reading.value("trainer.total_training_steps")
    epochs, prompts = reading.number("trainer.total_epochs", 30), reading.body["rl"]["num_prompts_per_step"]
    if steps is not None:
        reading.take("trainer.total_training_steps", "rl.num_steps", reading.whole("trainer.total_training_steps", 1))
    elif request.num_rl_rows:
        count = max(1, int(epochs * (request.num_rl_rows // prompts)))
        reason = f"{epochs:g} passes over {request.num_rl_rows} rows, {prompts} a step"
        reading.take("trainer.total_epochs", "rl.num_steps", count, default=30, reason=reason)
    else:
        reason = "RL counts steps, and the number of rows is not in the file"
        remedy = "give --rl-rows, or set rl.num_steps"
        reading.tell("trainer.total_epochs", "no_equivalent", default=30, reason=reason, remedy=remedy)
    reading.read("trainer.total_epochs", "rl.num_steps", "total_training_steps counts")
    if reading.whole("trainer.save_freq", -1) > 0:
        reading.take("trainer.save_freq", "rl.save_steps", reading.whole("trainer.save_freq", -1))
    reading.read("trainer.save_freq", "rl.save_steps", "never there; checkpoints are what an attempt goes on from")
    if reading.has("trainer.max_actor_ckpt_to_keep"):
        kept = reading.whole("trainer.max_actor_ckpt_to_keep", 2)
        reading.take("trainer.max_actor_ckpt_to_keep", "rl.save_total_limit", max(1, kept))


def _take_correction(reading: Reading) -> None:
    weights = reading.value(_CORRECTION + "rollout_is")
    if weights in ("token", "sequence"):
        most = float(reading.number(_CORRECTION + "rollout_is_threshold", 2.0))
        reading.take(_CORRECTION + "rollout_is", "rl.rollout_correction", {"mode": f"{weights}_truncate", "max": most})
    if reading.has(_CORRECTION + "rollout_rs"):
        reason = "ratios are truncated or masked, not both, and not by a divergence"
        remedy = "set rl.rollout_correction to token_mask or sequence_mask"
        reading.tell(_CORRECTION + "rollout_rs", "no_equivalent", reason=reason, remedy=remedy)
    for key in ("bypass_mode", "rollout_is_batch_normalize"):
        if reading.flag(_CORRECTION + key, False):
            reason = "the trainer computes its own log-probs, and weights are not normalised"
            reading.tell(_CORRECTION + key, "no_equivalent", reason=reason, remedy="leave it out")
    for key in reading.keys_under(_CORRECTION):
        reading.read(key, "rl.rollout_correction", "of the correction" if weights else "there is none")


def _take_evaluation(reading: Reading) -> None:
    freq, before = reading.whole("trainer.test_freq", -1), reading.flag("trainer.val_before_train", True)
    wanted = reading.has("data.val_files") and (freq > 0 or before)
    if wanted:
        rl = reading.body["rl"]
        data = {key: rl["data"][key] for key in ("prompt_field", "answer_field", "chat")} if "data" in rl else {}
        take_files(reading, "data.val_files", "evaluation.data", data)
        take_limit(reading, "data.val_max_samples", "evaluation.num_prompts")
        _take_sampling(reading, rl)
        if "reward" in rl:
            reading.put("evaluation.reward", rl["reward"])
        reading.put("evaluation.points", ["base", "after_rl"] if before else ["after_rl"])
        if freq > 0:
            reading.take("trainer.test_freq", "evaluation.rl_eval_steps", freq)
    how = "when held-out prompts are judged" if wanted else "nothing is evaluated: no val_files, or neither asked for"
    keys = ("data.val_files", "data.val_max_samples", "trainer.test_freq", "trainer.val_before_train")
    for key in (*keys, *reading.keys_under(_ROLLOUT + "val_kwargs.")):
        reading.read(key, "evaluation", how)


def _take_sampling(reading: Reading, rl: Mapping[str, Any]) -> None:
    prefix = _ROLLOUT + "val_kwargs."
    group = reading.whole(prefix + "n", 1)
    reading.put("evaluation.pass_at_k", sorted({1, group}))
    reading.put("evaluation.max_completion_length", rl["max_completion_length"])
    reading.take(prefix + "n", "evaluation.num_generations", group, default=1)
    temperature = float(reading.number(prefix + "temperature", 0.0))
    if reading.flag(prefix + "do_sample", False) and temperature > 0:
        reading.take(prefix + "temperature", "evaluation.temperature", temperature, default=0.0)
    else:
        reason = "evaluations sample, since pass@k and diversity need it; greedy decoding has no equivalent"
        remedy = "set evaluation.temperature (1.0 if left alone) and num_generations"
        reading.tell(prefix + "temperature", "no_equivalent", default=0.0, reason=reason, remedy=remedy)
    for key, harmless in (("top_p", 1.0), ("top_k", -1)):
        if reading.has(prefix + key) and reading.number(prefix + key, harmless) != harmless:
            reading.tell(
                prefix + key, "no_equivalent", reason="the whole distribution is sampled", remedy="leave it out"
            )


def _take_resources(reading: Reading) -> None:
    """verl's engines and ranks share GPUs; so do ours with `colocated`, one engine a GPU."""
    gpus = reading.whole("trainer.n_gpus_per_node", 8) * reading.whole("trainer.nnodes", 1)
    share = float(reading.number(_ROLLOUT + "gpu_memory_utilization", 0.5))
    reading.put("resources.placement", "colocated")
    reading.put("resources.trainer", {"num_ranks": gpus, "num_gpus": round(1 - share, 4)})
    reading.put("resources.rollout", {"num_engines": gpus, "num_gpus": share})
    reading.take("trainer.n_gpus_per_node", "resources", reading.body["resources"], default=8, reason="all GPUs shared")
    for key in ("trainer.nnodes", _ROLLOUT + "gpu_memory_utilization"):
        reading.read(key, "resources", "parts of each GPU for trainer and engine")
    parallel = _ROLLOUT + "tensor_model_parallel_size"
    if reading.whole(parallel, 2) > 1:
        reason = "a colocated engine holds one GPU; several engines share the prompts instead"
        remedy = "for a model that does not fit: placement disaggregated with rollout.tensor_parallel_size"
        reading.tell(parallel, "no_equivalent", default=2, reason=reason, remedy=remedy)
    reading.read(parallel, "resources.rollout", "one GPU an engine")
