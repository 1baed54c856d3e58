"""verl: which trainer a file is for, and the supervised one."""

from collections.abc import Mapping
from typing import Any

from service.contract.imports import ImportRequest
from service.contract.stages import StageName
from service.foreign_configs.reading import Reading
from service.foreign_configs.rules import NoEquivalent, Rule, not_needed
from service.foreign_configs.verl_options import HOW
from service.foreign_configs.verl_rl import read_verl_rl
from service.foreign_configs.verl_shared import take_clip, take_files, take_limit, take_lora, take_names, take_optimizer

__all__ = ["read_verl_rl", "read_verl_sft", "verl_stage"]

_SFT: tuple[Rule, ...] = (
    NoEquivalent("model.trust_remote_code", "a model's own code is never run", "take a supported model", (False,)),
    NoEquivalent("model.external_lib", "nothing is imported into workers", "leave it out", (None,)),
    NoEquivalent("model.override_config.*", "the model's config.json counts", "change it in the model folder"),
    NoEquivalent("model.tokenizer_path", "the tokenizer lies in the model's folder", "copy it there", (None,)),
    NoEquivalent("optim.optimizer", "every stage trains with AdamW", "leave it out", ("AdamW",)),
    NoEquivalent("optim.min_lr_ratio", "schedules end at 0", "leave it out", (0.0, None)),
    NoEquivalent("trainer.total_training_steps", "SFT counts passes over the data", "set sft.num_epochs", (None, -1)),
    NoEquivalent("data.custom_cls.path", "data are read in one way", "see docs/data.md", (None,)),
    NoEquivalent("data.custom_cls.name", "data are read in one way", "see docs/data.md", (None,)),
    NoEquivalent("data.tools_key", "messages have no tools", "leave it out", ("tools",)),
    NoEquivalent("data.apply_chat_template_kwargs.*", "variables stand with the data", "set sft.data.chat.variables"),
    NoEquivalent("model.mtp.enable", "no further tokens are predicted at once", "leave it out", (False,)),
    *not_needed("only of what is off", "model.mtp.*"),
    *not_needed("empty", "model.override_config", "data.apply_chat_template_kwargs"),
    *not_needed(
        "templates take variables from sft.data.chat.variables",
        "data.enable_thinking_key",
        "data.enable_thinking_default",
    ),
    *not_needed("every sample's tokens are checked against its text", "data.ignore_input_ids_mismatch"),
    *not_needed("the trainer's ranks are resources.trainer", "trainer.nnodes", "trainer.n_gpus_per_node"),
)
_CUTS = {"error": "error", "right": "truncate"}


def verl_stage(settings: Mapping[str, Any]) -> StageName | None:
    """Of which trainer the file is; None where it is no configuration of verl."""
    if any(key.startswith(("actor_rollout_ref.", "algorithm.")) for key in settings):
        return "rl"
    supervised = ("data.train_files", "data.messages_key", "model.partial_pretrain", "optim.lr", "data.prompt_key")
    return "sft" if any(key in settings for key in supervised) else None


def read_verl_sft(reading: Reading, request: ImportRequest) -> None:
    """`sft_trainer`: the newer one with messages, and the older one with a prompt and a response."""
    take_names(reading)
    reading.take("trainer.seed", "seed", reading.whole("trainer.seed", 1), default=1)
    key = "model.partial_pretrain" if reading.has("model.partial_pretrain") else "model.path"
    if reading.has(key):
        reading.take(
            key, "model.path", str(reading.value(key)), remedy="a model is a folder; a hub name must be downloaded"
        )
    checkpointing = reading.flag("model.enable_gradient_checkpointing", True)
    reading.take("model.enable_gradient_checkpointing", "model.gradient_checkpointing", checkpointing, default=True)
    reading.put("model.dtype", "bfloat16")
    reading.tell("(dtype)", "default", field="model.dtype", becomes="bfloat16", reason="verl's passes are bfloat16")
    take_lora(reading, "model.")
    _take_data(reading)
    take_optimizer(reading, "optim.", "sft", {"lr": 1e-5})
    take_clip(reading, ("optim.clip_grad",), "sft")
    _take_run(reading)
    reading.apply(_SFT)
    reading.apply(HOW)


def _take_data(reading: Reading) -> None:
    shape: dict[str, Any] = {"records": "messages"}
    if reading.has("data.messages_key"):
        shape["messages_field"] = str(reading.value("data.messages_key"))
    if reading.has("data.prompt_key") or reading.has("data.response_key"):
        shape = {
            "records": "question_answer",
            "question_field": str(reading.value("data.prompt_key", "question")),
            "answer_field": str(reading.value("data.response_key", "answer")),
        }
    take_files(reading, "data.train_files", "sft.data", shape)
    take_limit(reading, "data.train_max_samples", "sft.data.num_rows")
    if take_files(reading, "data.val_files", "sft.eval_data", shape):
        take_limit(reading, "data.val_max_samples", "sft.eval_data.num_rows")
    for key in ("data.messages_key", "data.prompt_key", "data.response_key", "data.val_max_samples"):
        reading.read(key, "sft.data", "where the text stands in a row")
    for key in ("data.prompt_dict_keys", "data.response_dict_keys"):
        if reading.has(key) and reading.value(key):
            reading.tell(key, "no_equivalent", reason="a field is named by one key", remedy="write the text out")


def _take_run(reading: Reading) -> None:
    reading.take("data.train_batch_size", "sft.batch_size", reading.whole("data.train_batch_size", 256), default=256)
    length = reading.whole("data.max_length", 1024)
    reading.take("data.max_length", "sft.max_length", length, default=1024)
    reading.put("model.max_model_len", max(length, 2048))
    cut = str(reading.value("data.truncation", "error"))
    if cut in _CUTS:
        reading.take("data.truncation", "sft.overlong", _CUTS[cut], default="error")
    else:
        reason = f"a sample that is too long loses its end, never its {cut}"
        reading.tell("data.truncation", "no_equivalent", reason=reason, remedy="shorten the data, or set sft.overlong")
    if reading.has("data.max_token_len_per_gpu") and reading.flag("data.use_dynamic_bsz", True):
        tokens = reading.whole("data.max_token_len_per_gpu", 8192)
        reading.take("data.max_token_len_per_gpu", "sft.max_tokens_per_microbatch", tokens)
    for key in ("data.use_dynamic_bsz", "data.max_token_len_per_gpu"):
        if reading.has(key):
            reading.read(key, "sft.max_tokens_per_microbatch", "tokens of a pass, which change no gradient")
    epochs = reading.whole("trainer.total_epochs", 4)
    reading.take("trainer.total_epochs", "sft.num_epochs", epochs, default=4)
    for key, field in (("trainer.save_freq", "sft.save_steps"), ("trainer.test_freq", "sft.eval_steps")):
        if reading.has(key) and str(reading.value(key)) == "after_each_epoch":
            reading.tell(key, "no_equivalent", reason="counted in steps", remedy=f"set {field}")
        elif reading.whole(key, -1) > 0 and (field != "sft.eval_steps" or "eval_data" in reading.body["sft"]):
            reading.take(key, field, reading.whole(key, -1))
        reading.read(key, field, "only at the end")
    kept = reading.value("trainer.max_ckpt_to_keep")
    if kept is not None:
        reading.take(
            "trainer.max_ckpt_to_keep", "sft.save_total_limit", max(2, reading.whole("trainer.max_ckpt_to_keep", 2))
        )
    _take_ranks(reading)


def _take_ranks(reading: Reading) -> None:
    ranks = reading.whole("trainer.n_gpus_per_node", 1) * reading.whole("trainer.nnodes", 1)
    reading.put("resources.trainer.num_gpus", 1.0)
    reading.take("trainer.n_gpus_per_node", "resources.trainer.num_ranks", ranks, default=1, reason="one GPU a rank")
    reading.read("trainer.nnodes", "resources.trainer.num_ranks", "one GPU a rank")
