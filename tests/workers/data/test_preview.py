"""What the previewing process answers, and that it does so without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.data import ChatSpec
from service.contract.preview import DataPreview, PreviewReply, PreviewRequest
from service.contract.spec import ExperimentSpec
from tests.workers.data.chat_templates import CHATML, byte_tokenizer
from tests.workers.tiny_model import make_pairs, make_sft_spec, make_tokenizer, write_lines
from workers.data.preview.build import build_preview, length_histogram
from workers.data.sft_dataset import load_sft_dataset


def make_spec(folder: Path, **sft: Any) -> ExperimentSpec:
    """Ten pairs to train on, two prompts to be sampled from."""
    make_tokenizer().save_pretrained(folder / "model")
    prompts = write_lines(
        folder / "rl.jsonl", [{"prompt": "w1 w2", "answer": "w3"}, {"prompt": "w4 " * 30, "answer": "x"}]
    )
    stage = {"data": {"path": prompts}, "reward": {"type": "exact_match"}, "max_completion_length": 8}
    body = {"name": "toy", "model": {"path": str(folder / "model"), "max_model_len": 32}, "evaluation": stage}
    spec = ExperimentSpec.model_validate(body)
    data = write_lines(folder / "sft.jsonl", make_pairs(10))
    return spec.model_copy(update={"sft": make_sft_spec(data, **sft)})


def preview(spec: ExperimentSpec, num_samples: int = 2, max_records: int = 100) -> DataPreview:
    return build_preview(PreviewRequest(spec=spec, num_samples=num_samples, max_records=max_records))


def test_samples_are_shown_as_tokens_with_what_is_trained(tmp_path: Path) -> None:
    sft = preview(make_spec(tmp_path)).data_sets[0]
    assert (sft.name, sft.num_records, sft.num_samples, sft.is_complete) == ("sft", 10, 10, True)
    first = sft.samples[0]
    assert "".join(first.tokens).split() == ["w0", "w1", "w0", "<eos>"]
    assert first.is_trained == [False, False, True, True]
    assert (first.num_tokens, first.num_trained_tokens) == (4, 2)
    assert sum(sft.lengths.counts) == 10 and sft.lengths.longest == 8


def test_a_previews_digests_are_those_of_the_run(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    assert spec.sft is not None
    lineage = load_sft_dataset(spec.sft, make_tokenizer()).lineage
    assert preview(spec).data_sets[0].lineage_sha256 == lineage.lineage_sha256


def test_what_a_run_would_refuse_is_said_and_not_refused(tmp_path: Path) -> None:
    sft, evaluation = preview(make_spec(tmp_path, max_length=7, overlong="drop")).data_sets
    assert (sft.num_dropped, sft.num_samples, sum(sft.lengths.counts)) == (2, 8, 10)
    assert "more than max_overlong_fraction" in sft.refusals[0]
    assert evaluation.refusals == ["1 of 2 prompts have no token or more than the 24 that fit"]
    assert (evaluation.samples[0].answer, evaluation.samples[0].num_trained_tokens) == ("w3", 0)


def test_a_part_of_the_records_is_said_to_be_one(tmp_path: Path) -> None:
    sft, evaluation = preview(make_spec(tmp_path), max_records=1).data_sets
    assert (sft.is_complete, sft.num_records, evaluation.is_complete, evaluation.num_records) == (False, 1, False, 1)


def test_chats_are_shown_with_their_special_tokens(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path / "model")
    assert spec.sft is not None
    data = spec.sft.data.model_copy(update={"chat": ChatSpec(template=CHATML)})
    spec = spec.model_copy(update={"sft": spec.sft.model_copy(update={"data": data, "max_length": 99})})
    sample = preview(spec).data_sets[0].samples[0]
    assert "".join(sample.tokens) == "<|im_start|>user\nw0 w1<|im_end|>\n<|im_start|>assistant\nw0<|im_end|>"
    trained = [token for token, flag in zip(sample.tokens, sample.is_trained, strict=True) if flag]
    assert "".join(trained) == "w0<|im_end|>"


@given(lengths=st.lists(st.integers(0, 10**6), max_size=30))
def test_every_length_falls_into_one_of_at_most_20_bins(lengths: list[int]) -> None:
    histogram = length_histogram(lengths)
    assert sum(histogram.counts) == len(lengths)
    assert len(histogram.counts) <= 20
    assert histogram.longest < len(histogram.counts) * histogram.bin_width


def ask_process(request: PreviewRequest, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-m", "workers.data.preview"]
    return subprocess.run(command, input=request.model_dump_json(), capture_output=True, text=True, timeout=120)


def test_the_process_answers_without_importing_torch(tmp_path: Path) -> None:
    request = PreviewRequest(spec=make_spec(tmp_path), num_samples=1, max_records=10)
    done = ask_process(request, "-X", "importtime")
    assert PreviewReply.model_validate_json(done.stdout).preview == preview(request.spec, 1, 10)
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip().startswith("torch.")]


@pytest.mark.parametrize(
    ("file", "message"), [("sft.jsonl", "no valid JSON"), ("model/tokenizer.json", "no tokenizer")]
)
def test_data_that_cannot_be_used_are_an_answer_too(tmp_path: Path, file: str, message: str) -> None:
    request = PreviewRequest(spec=make_spec(tmp_path), num_samples=1, max_records=10)
    (tmp_path / file).rename(tmp_path / "gone")
    (tmp_path / "sft.jsonl").write_text("{\n")
    done = ask_process(request)
    assert done.returncode == 0
    assert message in (PreviewReply.model_validate_json(done.stdout).config_error or "")
