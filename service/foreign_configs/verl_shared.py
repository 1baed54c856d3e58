"""verl: what its two trainers say in the same words."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from service.foreign_configs.reading import Reading, as_number
from service.foreign_configs.trackers import take_trackers

_TYPES = {".parquet": "parquet", ".json": "jsonl", ".jsonl": "jsonl", ".csv": "csv"}
_SCHEDULES: Mapping[str, str] = {"constant": "constant", "cosine": "cosine", "linear": "linear", "wsd": "wsd"}


def take_files(reading: Reading, key: str, field: str, extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """One file of rows; several are told of. None where the file names none."""
    files = reading.value(key)
    names = [files] if isinstance(files, str) else list(files or [])
    if not names:
        return None
    if len(names) > 1:
        reason = "a stage reads one file"
        reading.tell(key, "no_equivalent", field=field, reason=reason, remedy="write them to one file and name that")
    name = str(names[0])
    data = {"type": _TYPES.get(PurePosixPath(name).suffix, "parquet"), "path": name, **extra}
    remedy = "write the home folder out: ~ is not followed" if name.startswith("~") else ""
    if len(names) == 1:
        reading.take(key, field, data, remedy=remedy)
    else:
        reading.put(field, data)
    return data


def take_limit(reading: Reading, key: str, field: str) -> None:
    """`…_max_samples`: the first so many rows."""
    if reading.whole(key, -1) > 0:
        reading.take(key, field, reading.whole(key, -1), reason="the first so many; verl draws them")
    reading.read(key, field, "all rows")


def take_optimizer(reading: Reading, prefix: str, stage: str, defaults: Mapping[str, float]) -> None:
    """AdamW with its course."""
    place = f"{stage}.optimizer."
    rate = float(reading.number(prefix + "lr", defaults["lr"]))
    reading.take(prefix + "lr", place + "learning_rate", rate, default=defaults["lr"])
    decay = float(reading.number(prefix + "weight_decay", 0.01))
    reading.take(prefix + "weight_decay", place + "weight_decay", decay, default=0.01)
    betas = [float(as_number(beta)) for beta in reading.value(prefix + "betas") or (0.9, 0.999)]
    reading.put(place + "adam_beta1", betas[0])
    reading.take(prefix + "betas", place + "adam_beta2", betas[1], default=[0.9, 0.999])
    _take_course(reading, prefix, place)


def _take_course(reading: Reading, prefix: str, place: str) -> None:
    key = next(
        (prefix + one for one in ("lr_scheduler_type", "warmup_style", "lr_scheduler") if reading.has(prefix + one)), ""
    )
    key = key or prefix + "lr_scheduler_type"
    name = str(reading.value(key, "constant"))
    if name in _SCHEDULES:
        reading.take(key, place + "lr_schedule", _SCHEDULES[name], default="constant")
    else:
        reading.tell(key, "no_equivalent", reason=f"there is no schedule {name!r}", remedy=f"set {place}lr_schedule")
    steps = reading.whole(prefix + "lr_warmup_steps", -1)
    ratio_key = next(
        (prefix + one for one in ("lr_warmup_steps_ratio", "warmup_steps_ratio") if reading.has(prefix + one)), ""
    )
    ratio = reading.number(ratio_key, 0.0) if ratio_key else 0.0
    if steps > 0:
        reading.take(prefix + "lr_warmup_steps", place + "warmup_steps", steps)
    elif ratio:
        reading.take(ratio_key, place + "warmup_ratio", float(ratio))
    for one in ("lr_warmup_steps", "lr_warmup_steps_ratio", "warmup_steps_ratio", "warmup_style"):
        reading.read(prefix + one, place + "lr_schedule", "the optimizer's course")


def take_clip(reading: Reading, keys: tuple[str, ...], stage: str) -> None:
    """The gradient's norm, which verl has had under two names."""
    key = next((one for one in keys if reading.has(one)), keys[0])
    reading.take(key, f"{stage}.optimizer.max_grad_norm", float(reading.number(key, 1.0)), default=1.0)
    for one in keys:
        reading.read(one, f"{stage}.optimizer.max_grad_norm", "the first name counts")


def take_names(reading: Reading) -> None:
    """Names, trackers and what is kept."""
    if "name" not in reading.body:
        name = str(reading.value("trainer.experiment_name", "imported-from-verl"))[:120]
        reading.take("trainer.experiment_name", "name", name, default="gsm8k")
    project = str(reading.value("trainer.project_name", "verl_examples"))
    take_trackers(reading, "trainer.logger", reading.value("trainer.logger", "console"), project=project)
    reading.read("trainer.experiment_name", "name", "another stage's name stands already")
    reading.read("trainer.project_name", "mirrors", "the project of the trackers")


def take_lora(reading: Reading, prefix: str) -> None:
    """Adapters, if their rank is above 0. The section `lora` is Megatron's, whose layers have names of their own."""
    section = prefix + "lora."
    of_megatron = reading.whole(section + "rank", 0) > 0
    rank_key, alpha_key = (
        (section + "rank", section + "alpha") if of_megatron else (prefix + "lora_rank", prefix + "lora_alpha")
    )
    rank = reading.whole(rank_key, 0)
    all_keys = (prefix + "lora_rank", prefix + "lora_alpha", prefix + "target_modules", *reading.keys_under(section))
    if rank > 0 and "sft" in reading.body and "lora" not in reading.body.get("model", {}):
        reason = "adapters are trained in both stages or in none, and the other file has none"
        reading.tell(rank_key, "no_equivalent", reason=reason, remedy="set model.lora, or train the weights in both")
    elif rank > 0:
        reading.take(rank_key, "model.lora.rank", rank)
        alpha = 32.0 if of_megatron else 16.0
        reading.take(alpha_key, "model.lora.alpha", float(reading.number(alpha_key, alpha)), default=alpha)
        _take_modules(reading, section if of_megatron else prefix, of_megatron=of_megatron)
    for key in all_keys:
        reading.read(key, "model.lora", "of adapters, as far as there are any")


def _take_modules(reading: Reading, prefix: str, *, of_megatron: bool) -> None:
    key = prefix + "target_modules"
    named = reading.value(key, "all-linear")
    if of_megatron:
        reading.put("model.lora.target_modules", "all-linear")
        reason = "layers have other names in Megatron; all linear ones were chosen"
        reading.tell(key, "no_equivalent", field="model.lora.target_modules", becomes="all-linear", reason=reason)
    else:
        reading.take(key, "model.lora.target_modules", named, default="all-linear")
