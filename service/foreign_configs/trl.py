"""TRL: which stage a file speaks of, and the supervised stage."""

from collections.abc import Mapping
from typing import Any

from service.contract.imports import ImportRequest
from service.contract.stages import StageName
from service.foreign_configs.reading import Reading, as_number
from service.foreign_configs.rules import NoEquivalent, NotNeeded, Rule, Same
from service.foreign_configs.trl_options import RL_ONLY, SFT_ONLY, SHARED
from service.foreign_configs.trl_rl import read_trl_rl
from service.foreign_configs.trl_shared import take_common, take_data, tell_data

__all__ = ["read_trl_rl", "read_trl_sft", "trl_stage"]

_LOSSES: Mapping[str, dict[str, Any]] = {"nll": {"type": "ce"}, "chunked_nll": {"type": "ce"}, "dft": {"type": "dft"}}

_SFT: tuple[Rule, ...] = (
    Same("neftune_noise_alpha", "sft.neftune_alpha", convert=as_number),
    NoEquivalent("truncation_mode", "a sample that is too long loses its end", "shorten the data", ("keep_start",)),
    NoEquivalent("max_steps", "SFT counts passes over the data", "set sft.num_epochs to steps x batch / rows", (-1, 0)),
    NoEquivalent(
        "completion_only_loss",
        "prompts are never trained",
        "put the text that shall be trained into the completion",
        (True, None),
    ),
    NoEquivalent(
        "dataset_text_field",
        "text without a prompt is not trained",
        "give records with a prompt (it may be short) and a completion",
        ("text",),
    ),
    NoEquivalent(
        "chat_template_path", "a template stands in the specification", "put its text into sft.data.chat.template"
    ),
    NoEquivalent(
        "eos_token", "the tokenizer's own end-of-sequence token is trained", "set it in the tokenizer's folder"
    ),
    NotNeeded("pad_token", "padding is never seen by the model"),
    NotNeeded("shuffle_dataset", "samples are drawn in a random order"),
    NotNeeded("padding_free", "no token sees another sequence's, packed or padded"),
    NotNeeded("eval_packing", "how it is computed"),
    NotNeeded("packing_strategy", "sequences are packed whole"),
    NoEquivalent("dataset_kwargs.*", "data are prepared in one way", "see docs/data.md"),
    NoEquivalent("dataset_kwargs", "data are prepared in one way", "see docs/data.md", ({}, None)),
    NotNeeded("eval_delay", "measurements begin before the first step"),
    NotNeeded("eval_on_start", "held-out samples are measured before the first step"),
    NoEquivalent("greater_is_better", "best_metric says it", "set sft.best_metric"),
)


def trl_stage(settings: Mapping[str, Any]) -> StageName | None:
    """Of which stage the file speaks; None where it is no configuration of TRL."""
    rl, sft = RL_ONLY & settings.keys(), SFT_ONLY & settings.keys()
    if rl and len(rl) >= len(sft):
        return "rl"
    return "sft" if sft or SHARED & settings.keys() else None


def read_trl_sft(reading: Reading, request: ImportRequest) -> None:
    """An `SFTConfig` with the arguments of `trl sft`."""
    take_common(reading, "sft")
    _take_sft_data(reading)
    _take_batch(reading, request)
    _take_epochs(reading)
    _take_lengths(reading)
    _take_loss(reading)
    _take_packing(reading)
    _take_measurements(reading)
    reading.apply(_SFT)


def _take_sft_data(reading: Reading) -> None:
    data = take_data(reading, "dataset_train_split", "train")
    if data is not None:
        if reading.flag("assistant_only_loss", False):
            data["records"] = "messages"
        reading.put("sft.data", data)
        reading.tell(
            "(shape of the records)",
            "assumed",
            field="sft.data.records",
            becomes=data.get("records", "prompt_completion"),
            reason="TRL finds out from the columns",
            remedy="look with `sedray data preview`, and set sft.data.records",
        )
    tell_data(reading, data, "sft.data")
    reading.read("assistant_only_loss", "sft.data", "only the assistant's turns are trained, always")


def _take_batch(reading: Reading, request: ImportRequest) -> None:
    per_device = reading.whole("per_device_train_batch_size", 8)
    accumulated = reading.whole("gradient_accumulation_steps", 1)
    size = per_device * accumulated * (request.num_devices or 1)
    how = f"{per_device} x {accumulated} accumulated x {request.num_devices or 1} processes"
    reading.take("per_device_train_batch_size", "sft.batch_size", size, default=8, reason=how)
    reading.read("gradient_accumulation_steps", "sft.batch_size", how)
    take_devices(reading, request)


def take_devices(reading: Reading, request: ImportRequest) -> None:
    """The trainer's ranks: TRL leaves their number to accelerate."""
    if request.num_devices is None:
        reading.tell(
            "(number of processes)",
            "assumed",
            field="resources.trainer.num_ranks",
            becomes=1,
            reason="accelerate knows it, the file does not",
            remedy="give --num-devices: it changes batch sizes and GPUs",
        )
        return
    reading.put("resources.trainer.num_ranks", request.num_devices)
    if not reading.flag("use_cpu", False):
        reading.put("resources.trainer.num_gpus", 1.0)


def _take_epochs(reading: Reading) -> None:
    epochs = reading.number("num_train_epochs", 3.0)
    whole = max(1, round(epochs))
    reading.take("num_train_epochs", "sft.num_epochs", whole, default=3.0)
    if whole != epochs:
        reason = "whole passes only"
        reading.tell("num_train_epochs", "no_equivalent", field="sft.num_epochs", becomes=whole, reason=reason)


def _take_lengths(reading: Reading) -> None:
    key = "max_seq_length" if reading.has("max_seq_length") and not reading.has("max_length") else "max_length"
    length = reading.whole(key, 1024)
    reading.take(key, "sft.max_length", length, default=1024)
    if "max_model_len" not in reading.body.get("model", {}):
        reading.put("model.max_model_len", max(length, 2048))
    cuts = {"overlong": "truncate", "max_overlong_fraction": 1.0}
    for field, value in cuts.items():
        reading.put(f"sft.{field}", value)
    reason = "TRL cuts what is too long, however much that is"
    reading.tell("(overlong samples)", "default", field="sft.overlong", becomes="truncate", reason=reason)


def _take_loss(reading: Reading) -> None:
    name = str(reading.value("loss_type", "nll"))
    smoothing = reading.number("label_smoothing_factor", 0.0)
    if name not in _LOSSES:
        reason = f"there is no objective {name!r}"
        reading.tell(
            "loss_type", "no_equivalent", reason=reason, remedy="see docs/objectives.md, and set sft.objective"
        )
        return
    objective = _LOSSES[name]
    if smoothing and objective["type"] == "ce":
        objective = {"type": "label_smoothing", "epsilon": smoothing}
    reading.take("loss_type", "sft.objective", objective, default="nll")
    reading.read("label_smoothing_factor", "sft.objective", "part of the objective")


def _take_packing(reading: Reading) -> None:
    if not reading.flag("packing", False):
        reading.read("packing", "sft.packing", "sequences are padded")
        return
    reading.take(
        "packing",
        "sft.packing",
        True,
        reason="TRL's batch counts packed blocks, here it counts sequences: an update sees fewer tokens",
        remedy="multiply sft.batch_size by the mean number of sequences in a block of max_length",
    )


def _take_measurements(reading: Reading) -> None:
    strategy = str(reading.value("eval_strategy", reading.value("evaluation_strategy", "no")))
    if strategy == "no":
        for key in (
            "eval_strategy",
            "evaluation_strategy",
            "eval_steps",
            "dataset_test_split",
            "load_best_model_at_end",
        ):
            if reading.has(key):
                reading.tell(key, "not_needed", reason="nothing is measured: eval_strategy is no")
        return
    _take_held_out(reading)
    for key in ("eval_strategy", "evaluation_strategy"):
        reading.read(key, "sft.eval_data", "held-out samples are measured")
    if strategy == "steps":
        steps = reading.number("eval_steps", reading.number("logging_steps", 10))
        reading.take("eval_steps", "sft.eval_steps", max(1, int(steps)), default=steps)
    reading.put("sft.num_eval_samples", None)
    if reading.flag("load_best_model_at_end", False):
        reading.put("sft.num_best_checkpoints", 1)
        reading.take("load_best_model_at_end", "sft.export", "best")
    if reading.has("metric_for_best_model"):
        reading.tell("metric_for_best_model", "not_needed", reason="the best is that of the lowest sft/eval/nll")


def _take_held_out(reading: Reading) -> None:
    share = reading.value("test_split_size")
    if share is not None and as_number(share) < 1:
        reading.take(
            "test_split_size", "sft.holdout_fraction", float(as_number(share)), reason="chosen by the prompts' hash"
        )
        return
    data = take_data(reading, "dataset_test_split", "test")
    if data is not None:
        records = reading.body["sft"].get("data", {}).get("records")
        reading.take(
            "dataset_test_split", "sft.eval_data", data | ({"records": records} if records else {}), default="test"
        )
