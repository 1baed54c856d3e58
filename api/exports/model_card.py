"""The card of an exported model: what it was made of, how, with which result. Pure; says nothing that is not known."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import yaml

from api.results import POINT_LABELS
from api.schemas import Experiment
from service.contract.data import DataSource
from service.contract.evaluation import EvaluationSet
from service.contract.messages import StageResult
from service.contract.metric_names import describe_metric
from service.contract.spec import ExperimentSpec

TrainedStage = Literal["sft", "rl"]
_EVALUATION_AFTER: Mapping[TrainedStage, str] = {"sft": "evaluate_after_sft", "rl": "evaluate_after_rl"}
_NO_LICENSE = "# license: say under which license you give it on; base model and data may bind you\n"


def model_card(experiment: Experiment, stage: TrainedStage, *, base_model: str | None = None) -> str:
    """README.md of the folder. `base_model` is the base's name on the hub, which a specification does not know."""
    results: dict[str, StageResult] = {result.stage: result for result in experiment.stage_results}
    after = results.get(_EVALUATION_AFTER[stage])
    head = _metadata(experiment, stage, after, base_model)
    parts = (
        _title(experiment, stage, base_model),
        _training(experiment.spec, stage, results),
        _data(experiment.spec, stage, results),
        _evaluations(experiment, results),
        _provenance(experiment, stage, results),
    )
    return f"---\n{_NO_LICENSE}{head}---\n\n" + "\n".join("\n".join(lines) + "\n" for lines in map(list, parts))


def _metadata(experiment: Experiment, stage: TrainedStage, after: StageResult | None, base_model: str | None) -> str:
    """What the hub reads; the results in its `model-index`."""
    spec = experiment.spec
    tags = ["sedray", "sft" if stage == "sft" else "rl", *_objective_tags(spec), *spec.tags]
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base_model is not None:
        facts["base_model"] = base_model
    facts["tags"] = list(dict.fromkeys(tags))
    hub_sets = [data.path for data in _sources(spec, stage) if data.is_on_hub]
    if hub_sets:
        facts["datasets"] = list(dict.fromkeys(hub_sets))
    if after is not None and spec.evaluation is not None:
        results = [_index_entry(one, after) for one in spec.evaluation.sets]
        facts["model-index"] = [{"name": experiment.name, "results": [one for one in results if one["metrics"]]}]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


def _index_entry(one: EvaluationSet, after: StageResult) -> dict[str, Any]:
    prefix = f"eval/{one.name}/"
    metrics = [
        {"type": name.removeprefix(prefix), "value": value, "name": name.removeprefix(prefix)}
        for name, value in after.metrics.items()
        if name.startswith(prefix) and ("@" in name)
    ]
    dataset = {"type": one.data.path if one.data.is_on_hub else one.name, "name": one.name}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}


def _objective_tags(spec: ExperimentSpec) -> list[str]:
    found = [spec.sft.objective.type] if spec.sft else []
    return found + ([spec.rl.adv_estimator] if spec.rl else [])


def _sources(spec: ExperimentSpec, stage: TrainedStage) -> list[DataSource]:
    sft = [spec.sft.data] if spec.sft else []
    return [*sft, *([spec.rl.data] if spec.rl and stage == "rl" else [])]


def _title(experiment: Experiment, stage: TrainedStage, base_model: str | None) -> Iterator[str]:
    made = "reinforcement learning" if stage == "rl" else "supervised fine-tuning"
    yield f"# {experiment.name}: after {made}"
    yield ""
    yield f"Base model: `{base_model or experiment.spec.model.path}`. Made by sedray, experiment `{experiment.id}`."
    if experiment.description:
        yield from ("", experiment.description)


def _training(spec: ExperimentSpec, stage: TrainedStage, results: Mapping[str, StageResult]) -> Iterator[str]:
    yield from ("## How it was trained", "")
    if spec.sft is not None:
        yield f"### Supervised fine-tuning: objective `{spec.sft.objective.type}`"
        yield ""
        settings = spec.sft.model_dump(mode="json", by_alias=True, exclude={"data", "eval_data"})
        yield from _settings_table(settings | _measured(results.get("sft"), ("tau", "exported_step")))
    if spec.rl is not None and stage == "rl":
        yield from ("", f"### Reinforcement learning: `{spec.rl.adv_estimator}` with `{spec.rl.policy_loss}`", "")
        yield from _settings_table(spec.rl.model_dump(mode="json", by_alias=True, exclude={"data"}))
    if spec.model.lora is not None:
        yield from ("", f"Adapters (LoRA) of rank {spec.model.lora.rank}, merged here; alone in the folder `adapter`.")


def _measured(result: StageResult | None, names: tuple[str, ...]) -> dict[str, Any]:
    detail = result.detail if result else {}
    return {f"{name} (found)": detail[name] for name in names if detail.get(name) is not None}


def _settings_table(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| setting | value |", "|---|---|")
    for name, value in _leaves(settings):
        if value not in (None, [], {}):
            yield f"| `{name}` | {_cell(value)} |"


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _data(spec: ExperimentSpec, stage: TrainedStage, results: Mapping[str, StageResult]) -> Iterator[str]:
    yield from ("## Data", "", "| use | source | rows | SHA-256 of what was read |", "|---|---|---|---|")
    sft, rl = results.get("sft"), results.get("rl")
    if spec.sft is not None:
        yield _data_row("SFT", spec.sft.data, sft, "num_samples", "data_sha256")
    if spec.rl is not None and stage == "rl":
        yield _data_row("RL", spec.rl.data, rl, "num_prompts", "prompts_sha256")
    for one in spec.evaluation.sets if spec.evaluation else []:
        yield _data_row(f"evaluation `{one.name}`", one.data, *_evaluated(one, spec, results))


def _evaluated(
    one: EvaluationSet, spec: ExperimentSpec, results: Mapping[str, StageResult]
) -> tuple[StageResult | None, str, str]:
    """The last evaluation's result, seen as that of the set alone."""
    found = next((results[stage] for stage in reversed(POINT_LABELS) if stage in results), None)
    if found is None or spec.evaluation is None or one.name == spec.evaluation.name:
        return found, "num_prompts", "prompts_sha256"
    detail = (found.detail.get("further_sets") or {}).get(one.name, {})
    return found.model_copy(update={"detail": detail}), "num_prompts", "prompts_sha256"


def _data_row(use: str, data: DataSource, result: StageResult | None, count: str, digest: str) -> str:
    detail = result.detail if result else {}
    revision = f" at `{data.revision}`" if data.revision else ""
    rows, found = detail.get(count, "–"), detail.get(digest)
    return f"| {use} | `{_cell(data.path)}`{revision} | {rows} | {f'`{found}`' if found else '–'} |"


def _evaluations(experiment: Experiment, results: Mapping[str, StageResult]) -> Iterator[str]:
    spec = experiment.spec
    yield from ("## Results", "")
    found = [(stage, results[stage]) for stage in POINT_LABELS if stage in results]
    if not found or spec.evaluation is None:
        yield "No evaluation was part of this experiment."
        return
    for one in spec.evaluation.sets:
        yield f"### `{one.name}`: {one.num_generations} completions a prompt, temperature {one.temperature:g}"
        yield ""
        yield (
            "| metric | "
            + " | ".join(f"{POINT_LABELS[stage]} (n = {_n(one, spec, result)})" for stage, result in found)
            + " |"
        )
        yield "|---|" + "---|" * len(found)
        own = (f"eval/{one.name}/", f"diversity/{one.name}/")
        names = dict.fromkeys(name for _, result in found for name in result.metrics if name.startswith(own))
        for name in names:
            values = (result.metrics.get(name) for _, result in found)
            cells = " | ".join("–" if value is None else f"{value:.4g}" for value in values)
            yield f"| `{name}`{_unit(name)} | {cells} |"
        yield ""
    yield "One run with one seed: differences between models need several. `sedray study report` gives intervals."


def _n(one: EvaluationSet, spec: ExperimentSpec, result: StageResult) -> str:
    """Prompts whose completions were all judged; a dash where the result does not say."""
    main = spec.evaluation is not None and one.name == spec.evaluation.name
    detail = result.detail if main else (result.detail.get("further_sets") or {}).get(one.name, {})
    return str(detail.get("num_prompts", "–"))


def _unit(name: str) -> str:
    known = describe_metric(name)
    return f" ({known.unit})" if known and known.unit not in ("", "1") else ""


def _provenance(experiment: Experiment, stage: TrainedStage, results: Mapping[str, StageResult]) -> Iterator[str]:
    spec = experiment.spec
    yield from ("## Where it comes from", "", "| what | value |", "|---|---|")
    yield f"| experiment | `{experiment.id}`, project `{experiment.project}`, by `{experiment.user}` |"
    yield f"| specification (SHA-256) | `{spec.sha256()}`; in `sedray_spec.yaml` |"
    yield f"| seeds | {spec.seed}" + (f", RL {spec.rl_seed}" if spec.rl and stage == "rl" else "") + " |"
    for name, value in _versions(results.get(stage)):
        yield f"| {name} | `{_cell(value)}` |"
    reused = (results[stage].detail.get("reused_from") or {}) if stage in results else {}
    if reused:
        yield f"| stage run by | `{reused.get('experiment_id')}` |"
    yield from ("", "```", "sedray submit sedray_spec.yaml", "```")


def _versions(result: StageResult | None) -> Iterator[tuple[str, str]]:
    code = result.detail.get("code") if result else None
    for name, value in (code or {}).items():
        yield ("workers' sources (SHA-256)" if name == "sha256" else name), str(value)


def _cell(value: Any) -> str:
    """One line of a table, whatever the text is."""
    return " ".join(str(value).replace("|", "\\|").replace("`", "'").splitlines())
