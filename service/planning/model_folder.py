"""Looks into a model folder: config, tokenizer, weights, and an end-of-sequence token."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.planning.chat_checks import has_chat_template
from service.planning.findings import Finding
from service.planning.model_shape import ModelShape, model_shape
from service.planning.safetensors_headers import read_tensor_shapes

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_FIELD = "model.path"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of the model."""

    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    shape: ModelShape | None = None
    """None where the config does not tell the sizes."""
    model_type: str | None = None
    layer_types: frozenset[str] = frozenset()
    """Kinds of the layers, where the config tells."""
    has_chat_template: bool | None = None
    """None where the folder could not be read."""
    findings: list[Finding]


def inspect_model(path: str) -> ModelFacts:
    """Reads the small files of the folder and lists the rest. Blocks."""
    if "://" in path:
        hint = "copy it to a folder that the service and all workers can read: models are loaded from a local folder"
        return ModelFacts(findings=[_finding(f"{path} is a URL", hint)])
    if not path.startswith("/"):
        hint = (
            "give an absolute path; the command line makes paths absolute that are relative to the specification's file"
        )
        return ModelFacts(findings=[_finding(f"{path!r} is a relative path", hint)])
    try:
        return _inspect(Path(path))
    except (OSError, ValueError) as error:
        hint = "check the folder's files and that the service may read them"
        return ModelFacts(findings=[_finding(f"{path} cannot be read: {error}", hint)])


def _inspect(folder: Path) -> ModelFacts:
    if not folder.is_dir():
        hint = "give a folder that the service and all workers can read"
        return ModelFacts(findings=[_finding(f"{folder} is no folder that the service can see", hint)])
    config = _read_json(folder / "config.json")
    findings = [*_config_findings(folder, config), *_tokenizer_findings(folder), *_weight_findings(folder)]
    if config is not None and not _has_end_token(folder, config):
        hint = "set eos_token in tokenizer_config.json, or completions could never end"
        findings.append(_finding("neither the tokenizer nor the configs name an end-of-sequence token", hint))
    inner = (config or {}).get("text_config")
    sizes = {**(inner if isinstance(inner, dict) else {}), **(config or {})}
    return ModelFacts(
        vocab_size=_positive(sizes.get("vocab_size")),
        max_position_embeddings=_positive(sizes.get("max_position_embeddings")),
        model_type=str(sizes.get("model_type", "")) or None,
        layer_types=_layer_types(sizes.get("layer_types")),
        shape=model_shape(sizes, read_tensor_shapes(folder)),
        has_chat_template=has_chat_template(folder),
        findings=findings,
    )


def _config_findings(folder: Path, config: dict[str, Any] | None) -> list[Finding]:
    if config is not None:
        return []
    hint = "point model.path to the folder that save_pretrained wrote"
    return [_finding(f"{folder} holds no config.json, so it is no Hugging Face model folder", hint)]


def _tokenizer_findings(folder: Path) -> list[Finding]:
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return []
    hint = "put tokenizer.json and tokenizer_config.json into the folder"
    return [_finding(f"{folder} holds no tokenizer", hint)]


def _weight_findings(folder: Path) -> list[Finding]:
    present = {path.name for path in folder.glob("*.safetensors")}
    hint = "save the model with save_pretrained(..., safe_serialization=True)"
    if not present:
        return [_finding(f"{folder} holds no *.safetensors weights", hint)]
    index = _read_json(folder / "model.safetensors.index.json") or {}
    shards = index.get("weight_map", {})
    missing = sorted(set(shards.values()) - present) if isinstance(shards, dict) else []
    if missing:
        problem = f"{len(missing)} of the weight files that the index names are missing, such as {missing[0]}"
        return [_finding(problem, "copy the whole folder")]
    return []


def _has_end_token(folder: Path, config: dict[str, Any]) -> bool:
    named = (
        config.get("eos_token_id"),
        (_read_json(folder / "generation_config.json") or {}).get("eos_token_id"),
        (_read_json(folder / "tokenizer_config.json") or {}).get("eos_token"),
        (_read_json(folder / "special_tokens_map.json") or {}).get("eos_token"),
    )
    return any(token not in (None, "", []) for token in named)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no file. Raises ValueError for anything else."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


def _layer_types(kinds: object) -> frozenset[str]:
    return frozenset(map(str, kinds)) if isinstance(kinds, list) else frozenset()


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _finding(problem: str, hint: str) -> Finding:
    return Finding(field=_FIELD, problem=problem, hint=hint)
