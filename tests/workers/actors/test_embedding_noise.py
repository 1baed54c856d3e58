"""NEFTune: noise in training only, the same however a step is cut."""

from pathlib import Path

import pytest
import torch

from service.contract.objectives import SedObjective
from service.contract.stages import OptimizerSpec
from tests.workers.tiny_model import make_pairs, make_sft_spec, make_trainer, write_lines
from workers.actors.embedding_noise import EmbeddingNoise, noisy_embeddings


def losses(model_folder: Path, data: str, root: Path, *, steps: int = 4, **changes: object) -> list[float]:
    """`sft/nll` of the first steps."""
    spec = make_sft_spec(data, optimizer=OptimizerSpec(learning_rate=1e-2, adam_epsilon=1.0), **changes)
    trainer = make_trainer(model_folder)
    trainer.prepare_sft(spec, str(root))
    return [metrics.values["sft/nll"] for metrics in trainer.sft_steps(max_steps=steps, max_seconds=1000.0).steps]


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_lines(tmp_path / "pairs.jsonl", make_pairs(10))


def test_noise_has_the_papers_size_and_spares_the_padding() -> None:
    embedded = torch.zeros(2, 50, 32)
    sampled = EmbeddingNoise(alpha=5.0, seeds=(1, 2)).sample([50, 20], embedded)
    for row, length in ((0, 50), (1, 20)):
        bound = 5.0 / (length * 32) ** 0.5
        largest = float(sampled[row, :length].abs().max())
        assert 0.99 * bound < largest <= bound
    assert not sampled[1, 20:].any()


def test_noise_follows_the_seed_of_a_sequence_and_not_its_row() -> None:
    embedded = torch.zeros(2, 7, 4)
    first = EmbeddingNoise(alpha=1.0, seeds=(1, 2)).sample([5, 7], embedded)
    second = EmbeddingNoise(alpha=1.0, seeds=(2, 1)).sample([7, 5], torch.zeros(2, 9, 4))
    assert torch.equal(first[0], second[1, :7])
    assert torch.equal(first[1], second[0, :7])


def test_the_embeddings_are_bare_again_afterwards() -> None:
    embeddings = torch.nn.Embedding(5, 4)
    ids = torch.tensor([[0, 1, 2]])
    bare = embeddings(ids)
    with noisy_embeddings(embeddings, EmbeddingNoise(alpha=1.0, seeds=(1,)), [3]):
        assert not torch.equal(embeddings(ids), bare)
    assert torch.equal(embeddings(ids), bare)


def test_training_with_noise_differs_and_repeats_itself(model_folder: Path, data: str, tmp_path: Path) -> None:
    bare = losses(model_folder, data, tmp_path / "a")
    noisy = losses(model_folder, data, tmp_path / "b", neftune_alpha=5.0)
    assert all(one != other for one, other in zip(bare, noisy, strict=True))
    assert losses(model_folder, data, tmp_path / "c", neftune_alpha=5.0) == noisy


def test_noise_does_not_depend_on_the_micro_batches(model_folder: Path, data: str, tmp_path: Path) -> None:
    whole = losses(model_folder, data, tmp_path / "a", neftune_alpha=5.0)
    cut = losses(model_folder, data, tmp_path / "b", neftune_alpha=5.0, max_tokens_per_microbatch=1)
    assert cut == pytest.approx(whole, rel=1e-5)


def test_a_resumed_run_draws_the_noise_of_the_uninterrupted_one(model_folder: Path, data: str, tmp_path: Path) -> None:
    whole = losses(model_folder, data, tmp_path / "a", neftune_alpha=5.0, save_steps=2)
    losses(model_folder, data, tmp_path / "b", steps=2, neftune_alpha=5.0, save_steps=2)
    assert losses(model_folder, data, tmp_path / "b", steps=2, neftune_alpha=5.0, save_steps=2) == whole[2:]


def test_calibration_sees_no_noise(model_folder: Path, data: str, tmp_path: Path) -> None:
    taus = []
    for index, alpha in enumerate((None, 5.0)):
        spec = make_sft_spec(data, objective=SedObjective(calibration_samples=5), neftune_alpha=alpha)
        taus.append(make_trainer(model_folder).prepare_sft(spec, str(tmp_path / str(index))).tau)
    assert taus[0] == taus[1]
