"""TRL: what all its trainers share, as tables. Defaults are those of TRL 1.16 with transformers 5."""

from typing import Any

from service.foreign_configs.reading import as_number, as_whole
from service.foreign_configs.rules import NoEquivalent, NotNeeded, Rule, Same, not_needed

ADAMW = ("adamw_torch_fused", "adamw_torch", "adamw_hf", "adamw_apex_fused")


def optimizer(stage: str) -> tuple[Rule, ...]:
    """AdamW as both have it."""
    place = f"{stage}.optimizer."
    return (
        Same("weight_decay", place + "weight_decay", 0.0, as_number),
        Same("adam_beta1", place + "adam_beta1", 0.9, as_number),
        Same("adam_beta2", place + "adam_beta2", 0.999, as_number),
        Same("adam_epsilon", place + "adam_epsilon", 1e-8, as_number),
        Same("max_grad_norm", place + "max_grad_norm", 1.0, as_number),
        NoEquivalent("optim", "every stage trains with AdamW", "choose a learning rate for AdamW", ADAMW),
        NoEquivalent("optim_args", "AdamW takes betas and epsilon only", "see sft.optimizer", (None,)),
        NoEquivalent("optim_target_modules", "every stage trains with AdamW", "leave it out", (None,)),
    )


def saving(stage: str) -> tuple[Rule, ...]:
    """Checkpoints."""
    return (
        Same("save_steps", f"{stage}.save_steps", 500, _steps),
        Same("save_total_limit", f"{stage}.save_total_limit", convert=_at_least_two),
        NoEquivalent(
            "save_strategy",
            "checkpoints are saved every so many steps, and at the end",
            f"set {stage}.save_steps",
            ("steps", "no"),
        ),
        NoEquivalent(
            "save_only_model",
            "a checkpoint always holds what an exact resume needs",
            "`sedray export checkpoint` gives the model alone",
            (False,),
        ),
        NotNeeded("enable_jit_checkpoint", "a preempted run saves by itself"),
    )


def _steps(value: Any) -> int:
    number = as_number(value)
    if number < 1:
        raise ValueError(f"{value!r} is a share of the run; here it is a number of steps")
    return as_whole(number)


def _at_least_two(value: Any) -> int:
    return max(as_whole(value), 2)


PEFT: tuple[Rule, ...] = (
    NoEquivalent("lora_dropout", "adapters have no dropout", "compare with a run of TRL without it", (0.0,)),
    NoEquivalent(
        "use_rslora", "adapters are scaled by alpha / rank", "multiply lora.alpha by the root of rank", (False,)
    ),
    NoEquivalent("use_dora", "adapters are plain LoRA", "leave it out", (False,)),
    NoEquivalent(
        "lora_modules_to_save", "only adapters are trained", "train without lora, or leave it out", (None, [])
    ),
    NoEquivalent("lora_target_parameters", "adapters stand beside linear layers", "leave it out", (None, [])),
    NotNeeded("lora_task_type", "only causal language models are trained"),
    NoEquivalent("load_in_8bit", "weights are not quantized", "leave it out", (False,)),
    NoEquivalent("load_in_4bit", "weights are not quantized", "leave it out", (False,)),
    *not_needed("only of quantized weights", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
)

MODEL: tuple[Rule, ...] = (
    NoEquivalent(
        "model_revision",
        "a model is a folder",
        "download this revision: hf download NAME --revision REVISION --local-dir FOLDER",
        ("main",),
    ),
    NotNeeded("attn_implementation", "attention is exact for packed sequences whatever the implementation"),
    NoEquivalent(
        "trust_remote_code", "code out of a model's repository is never run", "take a supported model", (False,)
    ),
    NoEquivalent("router_aux_loss_coef", "mixture-of-experts losses are not added", "leave it out", (None,)),
    NoEquivalent(
        "model_init_kwargs.*",
        "models are loaded in one way",
        "put what matters into the model folder's config.json",
    ),
    NoEquivalent("model_init_kwargs", "models are loaded in one way", "leave it out", (None, {}, "{}")),
    NoEquivalent(
        "cast_lm_head_to_fp32", "the output layer computes in model.dtype", "set model.dtype to float32", (False,)
    ),
    NoEquivalent(
        "disable_dropout", "dropout of the model's own config acts", "set dropout to 0 in config.json", (True, False)
    ),
)

PRECISION: tuple[Rule, ...] = (
    NoEquivalent("fp16", "passes are float32 or bfloat16", "set model.dtype", (False,)),
    NotNeeded("tf32", "torch's own setting stands"),
    *not_needed("evaluation runs in the dtype of training", "bf16_full_eval", "fp16_full_eval"),
)

HOW: tuple[Rule, ...] = (
    *not_needed(
        "how it is computed; here it is done by ranks of FSDP2, packed passes and losses that never hold the logits",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "use_liger_kernel",
        "liger_kernel_config",
        "liger_kernel_config.*",
        "gradient_checkpointing_kwargs",
        "gradient_checkpointing_kwargs.*",
        "use_cache",
        "torch_empty_cache_steps",
        "activation_offloading",
        "pad_to_multiple_of",
        "dataset_num_proc",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "dataloader_in_order",
        "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
        "ddp_backend",
        "ddp_timeout",
        "fsdp",
        "fsdp_config",
        "fsdp_config.*",
        "deepspeed",
        "deepspeed.*",
        "parallelism_config",
        "parallelism_config.*",
        "accelerator_config",
        "accelerator_config.*",
        "auto_find_batch_size",
        "per_device_eval_batch_size",
        "eval_accumulation_steps",
        "prediction_loss_only",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "batch_eval_metrics",
        "include_for_metrics",
        "remove_unused_columns",
        "label_names",
        "length_column_name",
        "full_determinism",
        "local_rank",
        "debug",
        "skip_memory_metrics",
        "use_cpu",
        "ignore_bias_buffers",
        "dataset_streaming",
        "streaming",
        "ds3_gather_for_generation",
        "cache_implementation",
        "overwrite_output_dir",
        "group_by_length",
    ),
    *not_needed(
        "what is logged and shown: every step's metrics are stored and live on the page",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_dir",
        "logging_nan_inf_filter",
        "log_on_each_node",
        "log_level",
        "log_level_replica",
        "disable_tqdm",
        "include_num_input_tokens_seen",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "log_completions",
        "log_multimodal",
        "num_completions_to_print",
        "log_unique_prompts",
        "log_completions_hub_repo",
    ),
    *not_needed(
        "nothing is pushed to a hub; `sedray export checkpoint` writes the folder with its card",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
    ),
    *not_needed(
        "an attempt goes on from its last checkpoint by itself",
        "resume_from_checkpoint",
        "ignore_data_skip",
        "restore_callback_states_from_checkpoint",
        "save_on_each_node",
    ),
    *not_needed("the stages of the specification say what is done", "do_train", "do_eval", "do_predict"),
    NoEquivalent("data_seed", "one seed gives every stage its chance", "set seed", (None,)),
    NoEquivalent(
        "dataloader_drop_last", "the last, smaller batch of an epoch is trained too", "leave it out", (False,)
    ),
    NoEquivalent(
        "average_tokens_across_devices",
        "a step's denominator is always its tokens over all ranks",
        "leave it out",
        (True,),
    ),
    NoEquivalent("train_sampling_strategy", "samples are drawn in a random order", "leave it out", ("random",)),
    NoEquivalent("env.*", "runs take no environment from a specification", "set it for the workers of the cluster"),
)

SFT_ONLY = frozenset(
    {
        "dataset_text_field",
        "packing",
        "packing_strategy",
        "completion_only_loss",
        "assistant_only_loss",
        "padding_free",
        "eval_packing",
        "max_length",
        "truncation_mode",
        "max_seq_length",
        "dataset_kwargs",
    }
)
"""Options that only SFT has; those of RL follow."""
RL_ONLY = frozenset(
    {
        "num_generations",
        "max_completion_length",
        "reward_funcs",
        "use_vllm",
        "beta",
        "epsilon",
        "scale_rewards",
        "reward_weights",
        "vllm_mode",
        "num_iterations",
        "max_prompt_length",
        "steps_per_generation",
        "generation_batch_size",
    }
)
SHARED = frozenset(
    {
        "model_name_or_path",
        "learning_rate",
        "per_device_train_batch_size",
        "output_dir",
        "num_train_epochs",
        "dataset_name",
        "gradient_accumulation_steps",
    }
)
"""Of any trainer; a file with these and none of RL's is one of SFT."""
