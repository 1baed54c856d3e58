"""TRL: the model, the data, the optimizer's course and the trackers, which SFT and GRPO say in the same words."""

from pathlib import PurePosixPath
from typing import Any

from service.contract.imports import Outcome
from service.foreign_configs.reading import Reading, as_number, as_whole
from service.foreign_configs.trackers import take_trackers
from service.foreign_configs.trl_options import HOW, MODEL, PEFT, PRECISION, optimizer, saving

_SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
_FILE_TYPES = {".json": "jsonl", ".jsonl": "jsonl", ".parquet": "parquet", ".csv": "csv"}
_BUILDERS = {"json": "jsonl", "parquet": "parquet", "csv": "csv"}


def take_common(reading: Reading, stage: str) -> None:
    """All that does not depend on the trainer."""
    _take_name(reading)
    _take_seed(reading, stage)
    _take_model(reading)
    _take_lora(reading)
    _take_schedule(reading, stage)
    report_to = reading.value("report_to", "none")
    take_trackers(reading, "report_to", report_to, project=str(reading.value("project", "huggingface")))
    reading.read("project", "mirrors", "the project of the trackers")
    for table in (optimizer(stage), saving(stage), MODEL, PRECISION, HOW):
        reading.apply(table)


def take_data(reading: Reading, split_key: str, default_split: str) -> dict[str, Any] | None:
    """Where the rows come from, or None (told) where that cannot be said."""
    split = str(reading.value(split_key, default_split))
    mixture = reading.value("datasets")
    if mixture:
        return _of_mixture(reading, mixture, split if reading.has(split_key) else None)
    name = reading.value("dataset_name")
    if not name:
        return None
    data = _of_name(str(name))
    if data["type"] == "huggingface":
        data["split"] = split
        if reading.has("dataset_config"):
            data["config"] = str(reading.value("dataset_config"))
    return data


def tell_data(reading: Reading, data: dict[str, Any] | None, field: str) -> None:
    """What became of the options that name the data."""
    if data is None:
        return
    remedy = ""
    if data["type"] == "huggingface" and not str(data["path"]).startswith(("/", ".")):
        remedy = f"data on the hub need their commit: --set {field}.revision=<40 hexadecimal digits>"
    key = "datasets" if reading.has("datasets") else "dataset_name"
    reading.tell(key, "taken", field=field, becomes=data, remedy=remedy)
    for other in ("dataset_config", "dataset_train_split"):
        reading.read(other, field, "where the rows come from")


def _of_name(name: str) -> dict[str, Any]:
    suffix = PurePosixPath(name).suffix
    return {"type": _FILE_TYPES.get(suffix, "huggingface"), "path": name}


def _of_mixture(reading: Reading, mixture: Any, split: str | None) -> dict[str, Any] | None:
    one = mixture[0] if isinstance(mixture, list) and len(mixture) == 1 else None
    if not isinstance(one, dict) or one.get("fraction") is not None:
        reason = "a stage reads one data set; mixing is left to whoever makes the data"
        reading.tell("datasets", "no_equivalent", reason=reason, remedy="write the mixture to one file and name that")
        return None
    files = one.get("data_files")
    if one.get("path") in _BUILDERS and isinstance(files, str):
        return {"type": _BUILDERS[one["path"]], "path": files}
    data = _of_name(str(one.get("path", "")))
    if data["type"] == "huggingface":
        data["split"] = split or one.get("split") or "train"
        data |= {"config": str(one["name"])} if one.get("name") else {}
    return data


def _take_name(reading: Reading) -> None:
    folder = str(reading.value("output_dir", "")).rstrip("/")
    name = str(reading.value("run_name") or PurePosixPath(folder).name or "imported-from-trl")[:120]
    if "name" not in reading.body:
        key = "run_name" if reading.has("run_name") else "output_dir"
        reading.take(key, "name", name)
    reading.read("run_name", "name", "another stage's name stands already")
    if reading.has("output_dir"):
        reading.read("output_dir", "name", "outputs have their place under the service's output root")


def _take_seed(reading: Reading, stage: str) -> None:
    field = "rl.seed" if stage == "rl" and "sft" in reading.body else "seed"
    reading.take("seed", field, reading.whole("seed", 42), default=42)


def _take_model(reading: Reading) -> None:
    path = reading.value("model_name_or_path")
    known = reading.body.get("model", {}).get("path")
    if known is not None:
        reason = f"this stage goes on from what SFT leaves, which began with {known}"
        same = path in (None, known) or str(path) == str(reading.body.get("name"))
        outcome: Outcome = "not_needed" if same else "no_equivalent"
        if path is not None:
            remedy = "" if same else "see that the path is the SFT run's output"
            reading.tell("model_name_or_path", outcome, reason=reason, remedy=remedy)
    elif path is not None:
        local = str(path).startswith(("/", ".", "~"))
        remedy = (
            "" if local else f"a model is a folder: hf download {path} --local-dir FOLDER, then --set model.path=FOLDER"
        )
        reading.take("model_name_or_path", "model.path", str(path), remedy=remedy)
    _take_dtype(reading)
    if "gradient_checkpointing" not in reading.body.get("model", {}) or reading.has("gradient_checkpointing"):
        wanted = reading.flag("gradient_checkpointing", True)
        reading.take("gradient_checkpointing", "model.gradient_checkpointing", wanted, default=True)


def _take_dtype(reading: Reading) -> None:
    """TRL computes in bfloat16 unless told otherwise; here too, the weights that are trained stay float32."""
    in_bf16 = reading.flag("bf16", not reading.flag("fp16", False))
    key = next((key for key in ("dtype", "torch_dtype") if reading.has(key)), "dtype")
    stored = str(reading.value(key, "float32"))
    dtype = "bfloat16" if in_bf16 or stored in ("bfloat16", "float16") else "float32"
    reading.take("bf16", "model.dtype", dtype, default=True, reason="the dtype of the passes")
    if stored != "float32":
        reason = "weights that are trained, gradients and averages are float32 always"
        reading.tell(key, "no_equivalent", reason=reason, remedy="expect more memory and a little more precision")
    else:
        reading.read(key, "model.dtype", "weights that are trained are float32 always")


def _take_lora(reading: Reading) -> None:
    keys = ("lora_r", "lora_alpha", "lora_target_modules")
    if not reading.flag("use_peft", False):
        for key in (*keys, "use_peft", *(rule.key for rule in PEFT)):
            if reading.has(key):
                reading.tell(key, "not_needed", reason="use_peft is off: the weights themselves are trained")
        return
    if "sft" in reading.body and "lora" not in reading.body["model"]:
        reason = "adapters are trained in both stages or in none, and the other file has none"
        reading.tell("use_peft", "no_equivalent", reason=reason, remedy="set model.lora, or train the weights in both")
        for key in (*keys, *(rule.key for rule in PEFT)):
            reading.read(key, "model.lora", "without adapters")
        return
    reading.take("lora_r", "model.lora.rank", reading.whole("lora_r", 16), default=16)
    reading.take("lora_alpha", "model.lora.alpha", float(reading.number("lora_alpha", 32)), default=32)
    modules = reading.value("lora_target_modules")
    names = modules.split() if isinstance(modules, str) else list(modules or [])
    if names in ([], ["all-linear"]):
        reading.take(
            "lora_target_modules", "model.lora.target_modules", "all-linear", reason="peft chooses by the model"
        )
    else:
        reading.take("lora_target_modules", "model.lora.target_modules", names)
    if not reading.has("lora_dropout"):
        reason, remedy = "TRL's default of 0.05 would act; adapters have no dropout here", "expect small differences"
        reading.tell("lora_dropout", "no_equivalent", default=0.05, reason=reason, remedy=remedy)
    reading.read("use_peft", "model.lora", "adapters are trained")
    reading.apply(PEFT)


def _take_schedule(reading: Reading, stage: str) -> None:
    place = f"{stage}.optimizer."
    default_rate = 2e-5 if stage == "sft" else 1e-6
    rate = float(reading.number("learning_rate", default_rate))
    reading.take("learning_rate", place + "learning_rate", rate, default=default_rate)
    name = str(reading.value("lr_scheduler_type", "linear"))
    if name not in _SCHEDULES:
        reason = f"there is no schedule {name!r}: {', '.join(sorted(set(_SCHEDULES.values())))}"
        reading.tell("lr_scheduler_type", "no_equivalent", reason=reason, remedy=f"set {place}lr_schedule")
    else:
        reading.take("lr_scheduler_type", place + "lr_schedule", _SCHEDULES[name], default="linear")
    _take_warmup(reading, place, acts=name != "constant")
    for key in ("lr_scheduler_kwargs", *reading.keys_under("lr_scheduler_kwargs.")):
        if reading.has(key):
            reason = "schedules end at 0, and wsd falls over decay_ratio of the steps"
            reading.tell(key, "no_equivalent", reason=reason, remedy=f"set {place}decay_ratio for wsd")


def _take_warmup(reading: Reading, place: str, *, acts: bool) -> None:
    """`warmup_steps` below 1 is a share; the plain constant schedule has no warm-up there."""
    steps, ratio = as_number(reading.value("warmup_steps", 0)), as_number(reading.value("warmup_ratio", 0.0))
    if not acts:
        for key in ("warmup_steps", "warmup_ratio"):
            if reading.has(key):
                reading.tell(key, "not_needed", reason="the schedule `constant` has no warm-up in transformers")
    elif steps >= 1:
        reading.take("warmup_steps", place + "warmup_steps", as_whole(steps))
        reading.read("warmup_ratio", place + "warmup_steps", "the number of steps counts")
    elif steps or ratio:
        key = "warmup_steps" if steps else "warmup_ratio"
        reading.take(key, place + "warmup_ratio", float(steps or ratio))
    for key in ("warmup_steps", "warmup_ratio"):
        reading.read(key, place + "warmup_ratio", "no warm-up")
