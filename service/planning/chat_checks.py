"""Conversations against the model's tokenizer, and the stages' prompts against each other."""

import json
from collections.abc import Iterator
from pathlib import Path

from service.contract.data import PromptData, SupervisedData
from service.contract.spec import ExperimentSpec
from service.planning.findings import Finding

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def has_chat_template(model_folder: Path) -> bool:
    """Whether the tokenizer in the folder brings a chat template. Blocks; OSError and ValueError come through."""
    if any((model_folder / name).exists() for name in _TEMPLATE_FILES):
        return True
    config = model_folder / "tokenizer_config.json"
    return config.is_file() and bool(json.loads(config.read_text()).get("chat_template"))


def find_missing_templates(spec: ExperimentSpec, has_template: bool | None) -> Iterator[Finding]:
    """Conversations that nothing says how to render; `has_template` is None where the folder could not be read."""
    if has_template is not False:
        return
    for where, data in _all_data(spec):
        chat = data.chat_in_effect
        if chat is not None and chat.template is None:
            problem = "the records are conversations, but the model's tokenizer has no chat template"
            hint = "give a Jinja template, or let the records be 'prompt_completion' without chat"
            yield Finding(field=f"{where}.chat.template", problem=problem, hint=hint)


def warn_of_chats(spec: ExperimentSpec) -> Iterator[str]:
    """Prompts that are sampled from in another form than SFT has trained."""
    if spec.sft is None:
        return
    trained = spec.sft.data.chat_in_effect
    for where, data in _all_data(spec):
        if isinstance(data, PromptData) and data.chat_in_effect != trained:
            yield (
                f"{where}.chat differs from the chat of sft.data, so the model is asked in another form than it was "
                "trained to answer; give both the same chat"
            )


def _all_data(spec: ExperimentSpec) -> Iterator[tuple[str, SupervisedData | PromptData]]:
    if spec.sft:
        yield "sft.data", spec.sft.data
        if spec.sft.eval_data:
            yield "sft.eval_data", spec.sft.eval_data
    if spec.rl:
        yield "rl.data", spec.rl.data
    yield from ((f"{where}.data", one.data) for where, one in spec.evaluation_sets().items())
