"""A chat from the records to the exported model: what is trained as the end of a turn is where generation stops."""

import json
from dataclasses import asdict
from pathlib import Path

from transformers import AutoTokenizer

from service.contract.data import ChatSpec, SupervisedData
from service.contract.spec import ModelSpec
from tests.workers.tiny_model import make_model_folder, make_sft_spec, write_lines
from workers.actors.trainer import Trainer

CHAT = ChatSpec(
    template="{% for message in messages %}{{ 'w0 ' if message.role == 'user' else 'w1 ' }}{{ message.content }} <unk> "
    "{% endfor %}{% if add_generation_prompt %}{{ 'w1 ' }}{% endif %}"
)
"""Ends turns with `<unk>`, token 2."""


def make_trainer(folder: Path) -> Trainer:
    model = ModelSpec(path=str(make_model_folder(folder)), max_model_len=32)
    trainer = Trainer(model=model, seed=0, num_cpus=1, num_gpus=0, chats=(CHAT,))
    trainer.load()
    return trainer


def test_a_chat_is_trained_and_exported_with_its_end_token(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "model")
    rows = [{"question": f"w{number}", "answer": f"w{number + 1} w2"} for number in range(6)]
    data = SupervisedData(path=write_lines(tmp_path / "sft.jsonl", rows), records="question_answer", chat=CHAT)
    spec = make_sft_spec(data.path, num_epochs=1).model_copy(update={"data": data})
    plan = trainer.prepare_sft(spec, str(tmp_path / "checkpoints"))
    steps = trainer.sft_steps(max_steps=9, max_seconds=60.0).steps
    assert [step.values["sft/num_tokens"] for step in steps] == [4 * 3.0, 2 * 3.0]
    assert {len(digest) for name, digest in asdict(plan).items() if name.endswith("_sha256")} == {64}
    trainer.export(str(tmp_path / "export"))
    assert json.loads((tmp_path / "export" / "generation_config.json").read_text())["eos_token_id"] == [2, 1]
    assert AutoTokenizer.from_pretrained(tmp_path / "export").chat_template == CHAT.template


def test_end_tokens_of_chats_come_before_those_of_the_folder(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "model")
    assert trainer.load().eos_token_ids == (2, 1)
