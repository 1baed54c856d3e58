"""The trainer: one model, both stages. A plain class that Ray wraps elsewhere, once for each rank.

    load ──> prepare_sft ──> sft_steps ... ──> end_sft ──> prepare_rl ──> (rl_step ──> write_weights) ... ──> export
                 either stage may be left out; each resumes from its own folder of checkpoints

Several ranks share the model: rank 0 says where to meet (`open_store`), then all get the same calls in the same order,
and give the same results.

Steps count from 1 and mean the same in every call; see `trainer_results`.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, if not by mypy's rules

from service.contract.data import ChatSpec
from service.contract.spec import ModelSpec
from service.contract.stages import RlSpec, SftSpec
from workers.activity.record import about
from workers.actors.model_export import export_model, exported_weights
from workers.actors.nccl_engines import RayEngines
from workers.actors.nccl_sender import NcclSender
from workers.actors.policy_model import PolicyModel
from workers.actors.rank_group import RankGroup, connect_store, join, open_store
from workers.actors.trainer_results import ModelFacts, RlCarried, RlPlan, SftEnd, SftPlan, SftSlice
from workers.actors.trainer_rl import RlRun
from workers.actors.trainer_sft import SftRun
from workers.actors.training_state import load_weights
from workers.actors.weight_export import Content, weight_content, write_weights
from workers.config_error import ConfigError
from workers.data.token_sequence import TokenSequence
from workers.determinism import make_deterministic
from workers.rollouts import TrainingSample
from workers.weight_sync import SendReport, WeightManifest

logger = logging.getLogger(__name__)

PROBE_TOKENS_PER_MICROBATCH = 8192
"""Padded tokens of one forward pass of `logprobs`."""


class Trainer:
    """Holds the model that is trained. Loads nothing until `load`."""

    def __init__(
        self,
        *,
        model: ModelSpec,
        seed: int,
        num_cpus: float,
        num_gpus: float,
        chats: tuple[ChatSpec, ...] = (),
        rank: int = 0,
        num_ranks: int = 1,
        host: str = "127.0.0.1",
    ) -> None:
        """`num_gpus` above 0 means CUDA; otherwise torch computes on `num_cpus` threads, at least one.

        `chats` are those of the experiment's data: their end-of-turn tokens end completions too. `host` is the IPv4
        address under which the other ranks reach this one.
        """
        self._spec = model
        self._chats = chats
        self._seed = seed
        self._num_cpus = num_cpus
        self._num_gpus = num_gpus
        self._rank = rank
        self._num_ranks = num_ranks
        self._host = host
        self._store: TCPStore | None = None
        self._policy: PolicyModel | None = None
        self._sft: SftRun | None = None
        self._rl: RlRun | None = None
        self._sender: NcclSender | None = None

    def open_store(self) -> str:
        """Open the place where the ranks meet, on rank 0 of several; returns its address for the others' `load`."""
        self._store = open_store(self._host, self._num_ranks)
        return f"{self._host}:{self._store.port}"

    def load(self, store_address: str | None = None) -> ModelFacts:
        """Seed this process, join the other ranks and load model and tokenizer.

        Raises ConfigError if they, or the device, cannot work.
        """
        # Equal on all ranks while weights may be drawn, then each rank's own.
        make_deterministic(self._seed, "trainer")
        device = self._device()
        ranks = self._join(store_address, device)
        self._policy = PolicyModel(self._spec, device, seed=self._seed, chats=self._chats, ranks=ranks)
        make_deterministic(self._seed, "trainer", self._rank)
        self._sft = self._rl = None
        logger.info("model loaded", extra={"num_parameters": self._policy.facts.num_parameters})
        return self._policy.facts

    def close(self) -> None:
        """Leave the other ranks; only `load` may follow."""
        if self._sender is not None:
            self._sender.close()
        if self._policy is not None:
            self._policy.ranks.close()
        self._policy = self._sft = self._rl = self._store = self._sender = None

    def prepare_sft(self, spec: SftSpec, checkpoint_root: str) -> SftPlan:
        """Load the data and resume, or calibrate what the objective needs on the untrained model.

        `checkpoint_root` is a folder or fsspec URL for this stage alone. Raises ConfigError if the data or the
        checkpoints found there cannot work.
        """
        self._rl = None
        self._sft = SftRun(self._loaded(), spec, seed=self._seed, checkpoint_root=checkpoint_root)
        logger.info("sft prepared", extra={"first_step": self._sft.plan.first_step, "tau": self._sft.plan.tau})
        return self._sft.plan

    def sft_steps(self, *, max_steps: int, max_seconds: float) -> SftSlice:
        """Run whole optimizer steps until one of the limits; none when all are done.

        Measures on the held-out samples where that is due, then saves a checkpoint, each `save_steps` and after the
        last step. Raises NonFinite.
        """
        assert self._sft is not None, "prepare_sft comes first"
        return self._sft.steps(max_steps=max_steps, max_seconds=max_seconds)

    def save_sft(self) -> str:
        """Write the checkpoint after the last step done, also where none is due; returns its place."""
        assert self._sft is not None, "prepare_sft comes first"
        return self._sft.save()

    def end_sft(self) -> SftEnd:
        """Take the weights with which the stage ends: the last step's, or those of the best checkpoint.

        All steps must be done. Raises ConfigError if no such checkpoint can be loaded.
        """
        assert self._sft is not None, "prepare_sft comes first"
        end = self._sft.end()
        # The optimizer's state belongs to the last step's weights.
        self._sft = None
        logger.info("sft ended", extra={"exported_step": end.exported_step})
        return end

    def take_weights(self, checkpoint_root: str, step: int) -> None:
        """Take the weights of a stage's checkpoint after `step`, and nothing else of it.

        Raises DamagedCheckpoint, the weights as they were, unless it is there and verifies.
        """
        self._sft = self._rl = None
        load_weights(checkpoint_root, step, self._loaded())

    def prepare_rl(self, spec: RlSpec, checkpoint_root: str) -> RlPlan:
        """Resume this stage, or begin it with the present weights and a new optimizer.

        Raises ConfigError if the checkpoints found below `checkpoint_root` belong to something else.
        """
        self._sft = None
        seed = self._seed if spec.seed is None else spec.seed
        self._rl = RlRun(self._loaded(), spec, seed=seed, checkpoint_root=checkpoint_root)
        logger.info("rl prepared", extra={"first_step": self._rl.plan.first_step})
        return self._rl.plan

    @about(lambda step, *_, **__: f"step {step}")
    def rl_step(self, step: int, samples: Sequence[TrainingSample], *, temperature: float) -> dict[str, float]:
        """Train on one step's samples, group after group; returns the metrics `actor/*` and `sampling/*`.

        Raises NonFinite, and ValueError for a step out of order or samples that do not fit the specification.
        """
        assert self._rl is not None, "prepare_rl comes first"
        return self._rl.step(step, samples, temperature=temperature)

    @about(lambda step, *_, **__: f"step {step}")
    def save_rl(self, step: int, policy_version: int, carried: RlCarried | None = None) -> str:
        """Write the checkpoint after `step`, the last one done, and delete all but the newest `save_total_limit`.

        `prepare_rl` gives `carried` back to whoever resumes.
        """
        assert self._rl is not None, "prepare_rl comes first"
        return self._rl.save(step, policy_version, carried)

    def export(self, folder: str) -> str:
        """Write a Hugging Face folder (or upload it to an fsspec URL) and return where it is."""
        return export_model(self._loaded(), folder)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor once, by its Hugging Face name: contiguous CPU copies in the specification's dtype."""
        return exported_weights(self._loaded())

    def write_weights(self, path: str, *, with_digests: bool = False) -> WeightManifest:
        """Write `weights` as one safetensors file, which appears only when it is complete. Raises OSError."""
        return write_weights(self._loaded(), path, with_digests=with_digests)

    def weight_content(self, *, with_digests: bool = False) -> tuple[WeightManifest, Content]:
        """What that file would hold, for engines on other machines; empty on all ranks but the first."""
        return weight_content(self._loaded(), with_digests=with_digests)

    def join_engines(
        self, engines: Sequence[Any], names: Sequence[str], num_workers: Sequence[int], *, deadline_s: float
    ) -> str | None:
        """Make an NCCL group with rollout engines' actors; returns why there is none, if so. See `NcclSender.join`."""
        self._sender = self._sender or NcclSender(self._loaded(), self._host)
        return self._sender.join(RayEngines(engines, num_workers), names, deadline_s)

    def send_weights(self, *, with_digests: bool, deadline_s: float) -> SendReport:
        """Send `weights` to the engines of the group. See `NcclSender.send`."""
        assert self._sender is not None, "join_engines comes first"
        return self._sender.send(deadline_s, with_digests=with_digests)

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[tuple[list[int], list[int]]], *, temperature: float) -> list[list[float]]:
        """Log-prob of each completion token of (prompt ids, completion ids) under the temperature, in nats."""
        policy = self._loaded()
        rows = [TokenSequence(prompt_token_ids=tuple(p), completion_token_ids=tuple(c)) for p, c in sequences]
        values: dict[int, list[float]] = {}
        for indices in policy.microbatches(rows, PROBE_TOKENS_PER_MICROBATCH):
            statistics = policy.statistics([rows[index] for index in indices], temperature=temperature)
            lengths = [len(rows[index].completion_token_ids) for index in indices]
            for index, nll in zip(indices, torch.split(statistics.nll_N, lengths), strict=True):
                values[index] = (-nll).tolist()
        of_all = {index: own for share in policy.ranks.gather(values) for index, own in share.items()}
        return [of_all[index] for index in range(len(rows))]

    def _loaded(self) -> PolicyModel:
        assert self._policy is not None, "load comes first"
        return self._policy

    def _join(self, store_address: str | None, device: torch.device) -> RankGroup:
        if self._num_ranks == 1:
            return RankGroup()
        if self._store is None:
            assert store_address is not None, "ranks beyond the first must be told where to meet"
            self._store = connect_store(store_address, self._num_ranks)
        return join(self._store, rank=self._rank, num_ranks=self._num_ranks, host=self._host, device=device)

    def _device(self) -> torch.device:
        if self._num_gpus <= 0:
            torch.set_num_threads(max(1, int(self._num_cpus)))
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise ConfigError(
                f"resources.trainer.num_gpus is {self._num_gpus}, but torch sees no CUDA device in the trainer; "
                "set it to 0, or use nodes and a torch build with CUDA"
            )
        return torch.device("cuda", 0)
