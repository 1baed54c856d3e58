"""The model that is trained, its tokenizer, and the one forward pass that all stages share."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from service.contract.data import ChatSpec
from service.contract.spec import ModelSpec
from workers.actors.activation_checkpointing import checkpoint_activations
from workers.actors.adapters import Adapters
from workers.actors.embedding_noise import EmbeddingNoise, noisy_embeddings
from workers.actors.hidden_states import SplitModel
from workers.actors.rank_group import RankGroup
from workers.actors.sharding import GatheredModel, shard
from workers.actors.trainer_results import ModelFacts
from workers.config_error import ConfigError
from workers.data.batching import collate, plan_microbatches
from workers.data.chat_template import turn_end_token_ids
from workers.data.token_sequence import TokenSequence
from workers.data.work_split import plans_of_ranks
from workers.model_loading import end_token_ids, load_model, torch_dtype
from workers.objectives.base import (
    ObjectiveOutput,
    StatisticsNeeds,
    TokenStatistics,
)
from workers.objectives.fused_linear import FusedLoss, fused_loss, fused_statistics
from workers.objectives.output_head import ReferenceRows
from workers.seeds import derive_seed
from workers.tokenizer_loading import load_tokenizer

NO_NEEDS = StatisticsNeeds()
_ONE_TOKEN = TokenSequence(prompt_token_ids=(0,), completion_token_ids=(0,))


class PolicyModel:
    """A causal language model on its device. Trained weights are float32; `spec.dtype` is that of the forward pass.

    Several ranks share it: each holds a part of the weights, and every pass is a meeting of all of them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: torch.device,
        *,
        seed: int = 0,
        chats: tuple[ChatSpec, ...] = (),
        ranks: RankGroup | None = None,
        frozen: bool = False,
    ) -> None:
        """Load from `spec.path`; `seed` is that of adapters, no `ranks` means this one alone, `frozen` no training.

        Raises ConfigError if the folder or a chat cannot work.
        """
        self.ranks = ranks or RankGroup()
        self.spec = spec
        self.chats = chats
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(spec.path)
        self.dtype = torch_dtype(spec)
        # Frozen weights take no small steps and can have the dtype of the forward pass.
        is_trained = spec.lora is None and not frozen
        self.model: PreTrainedModel = load_model(spec.path, device, torch.float32 if is_trained else self.dtype)
        if frozen:
            self.model.requires_grad_(False)
        self.adapters = None
        if spec.lora is not None:
            self.adapters = Adapters(self.model, spec.lora, spec.path, seed=derive_seed(seed, "adapters"))
        self.device = device
        self._split = SplitModel(self.model, spec.path)
        if spec.gradient_checkpointing:
            checkpoint_activations(self.model, spec.path)
        self.facts = self._facts(spec)
        self._root = GatheredModel(self.model)
        if not self.ranks.is_alone:
            shard(self._root, self.ranks, self.dtype)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All trained parameters by name, each once."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold of the model, each tensor once, not copied: frozen weights never change.

        Sharded where several ranks share the model.
        """
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        left_out = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - trained
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in left_out}

    def unique_state(self) -> dict[str, Tensor]:
        """All weights, frozen ones too, each once, not copied; sharded where several ranks share the model."""
        unique = {name for name, _ in self.model.named_parameters()}
        aliases = {name for name, _ in self.model.named_parameters(remove_duplicate=False)} - unique
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in aliases}

    def whole_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The same one after the other and whole: all ranks take part, and each gets them, on its device."""
        for name, tensor in self.unique_state().items():
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def whole_state(self) -> dict[str, Tensor]:
        """The same at once, not copied where a single rank has them.

        Several ranks gather them on rank 0's CPU; the others take part and get nothing.
        """
        if self.ranks.is_alone:
            return self.unique_state()
        gathered = {}
        for name, whole in self.whole_tensors():
            if self.ranks.is_first:
                gathered[name] = whole.cpu()
        return gathered

    def microbatches(
        self, sequences: Sequence[TokenSequence], max_tokens: int, *, packing: bool = False, share_prompts: bool = False
    ) -> list[list[int]]:
        """This rank's share of the sequences, as indices, in micro-batches; see `plan_microbatches`.

        All ranks have the same number of them. An empty one has no sequences, and yet takes part: `loss` and
        `statistics` accept it.
        """
        plan = partial(plan_microbatches, max_tokens=max_tokens, packing=packing, share_prompts=share_prompts)
        if self.ranks.is_alone:
            return plan(sequences)
        return plans_of_ranks(sequences, self.ranks.num_ranks, plan)[self.ranks.rank]

    @property
    def on_gpu(self) -> bool:
        """Where the passes run."""
        return self.device.type != "cpu"

    @property
    def packs(self) -> bool:
        """Whether the model keeps sequences apart that lie end to end in one row."""
        return self._split.packs

    def require_packing(self) -> None:
        """Raises ConfigError if the model cannot keep sequences apart that lie end to end in one row."""
        self._split.require_packing()

    def loss(
        self,
        sequences: Sequence[TokenSequence],
        objective: FusedLoss,
        *,
        needs: StatisticsNeeds = NO_NEEDS,
        reference: ReferenceRows | None = None,
        temperature: float = 1.0,
        noise: EmbeddingNoise | None = None,
        packing: bool = False,
        share_prompts: bool = False,
    ) -> ObjectiveOutput:
        """The objective's sums over a micro-batch's label tokens, N in all, one sequence after the other.

        `reference` is a frozen model's `label_rows` of the same sequences, where `needs` asks for it. `packing` lays
        the sequences end to end instead of padding them, for a model that `packs`; `share_prompts` computes the prompt
        of packed neighbours that have the same one once. `loss_sum` is differentiable by the weights, once.
        """

        def compute() -> tuple[Tensor, ObjectiveOutput]:
            hidden_NH, labels_N = self._forward(sequences, noise, packing=packing, share_prompts=share_prompts)
            head = self._split.head(self.dtype)
            if not sequences:
                output = fused_loss(hidden_NH, head, labels_N, _nothing, needs=NO_NEEDS)
            else:
                output = fused_loss(
                    hidden_NH, head, labels_N, objective, needs=needs, reference=reference, temperature=temperature
                )
            return output.loss_sum, output

        return self._root(compute)[1]

    @torch.no_grad()
    def statistics(
        self,
        sequences: Sequence[TokenSequence],
        *,
        temperature: float = 1.0,
        needs: StatisticsNeeds = NO_NEEDS,
        reference: ReferenceRows | None = None,
        noise: EmbeddingNoise | None = None,
        packing: bool = False,
        share_prompts: bool = False,
    ) -> TokenStatistics:
        """The statistics of the same tokens, detached."""

        def compute() -> TokenStatistics:
            hidden_NH, labels_N = self._forward(sequences, noise, packing=packing, share_prompts=share_prompts)
            head = self._split.head(self.dtype)
            return fused_statistics(
                hidden_NH, head, labels_N, needs=needs, reference=reference, temperature=temperature
            )

        statistics: TokenStatistics = self._root(compute)
        self._root.release()
        return statistics if sequences else _without_rows(statistics)

    @torch.no_grad()
    def label_rows(self, sequences: Sequence[TokenSequence], *, packing: bool = False) -> ReferenceRows:
        """Hidden states of the same tokens and the output layer, detached: what a frozen model is asked for."""
        assert self.ranks.is_alone, "shared weights are whole during a pass only"
        hidden_NH, _ = self._forward(sequences, None, packing=packing)
        return ReferenceRows(hidden_NH=hidden_NH, head=self._split.head(self.dtype))

    def _forward(
        self,
        sequences: Sequence[TokenSequence],
        noise: EmbeddingNoise | None,
        *,
        packing: bool,
        share_prompts: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One pass over a micro-batch: hidden states of the label tokens, [N, H], and their labels, [N].

        An empty micro-batch, of a rank that must take part in the others' pass, is run as one token.
        """
        sequences = sequences or [_ONE_TOKEN]
        noise = noise if noise is None or noise.seeds else None
        assert noise is None or not share_prompts, "noise is that of one sequence"
        batch = collate(sequences, self.facts.pad_token_id, packing=packing, share_prompts=share_prompts)
        batch = batch.to(self.device)
        lengths = [sequence.num_tokens - 1 for sequence in sequences]
        mixed = self.dtype != torch.float32
        with (
            torch.autocast(self.device.type, dtype=self.dtype if mixed else None, enabled=mixed),
            noisy_embeddings(self.model.get_input_embeddings(), noise, lengths),
        ):
            hidden_BTH = self._split.hidden(batch.input_ids_BT, batch.position_ids_BT, batch.packed_row)
        return hidden_BTH.flatten(0, 1).index_select(0, batch.label_places_N), batch.labels_N

    def _facts(self, spec: ModelSpec) -> ModelFacts:
        vocab_size = self._split.vocab_size
        if len(self.tokenizer) > vocab_size:
            raise ConfigError(
                f"the tokenizer in {spec.path} knows {len(self.tokenizer)} tokens, the model only {vocab_size}; "
                "they do not belong together"
            )
        pad = self.tokenizer.pad_token_id
        turn_ends = turn_end_token_ids(self.tokenizer, self.chats)
        return ModelFacts(
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            vocab_size=vocab_size,
            eos_token_ids=tuple(dict.fromkeys((*turn_ends, *end_token_ids(self.model, self.tokenizer)))),
            pad_token_id=int(pad if pad is not None else self.tokenizer.eos_token_id),
        )


def _nothing(statistics: TokenStatistics, _rows: slice) -> ObjectiveOutput:
    """The loss of an empty micro-batch: 0 with gradients of 0."""
    return ObjectiveOutput(loss_sum=(0.0 * statistics.nll_N).sum(), metric_sums={})


def _without_rows(statistics: TokenStatistics) -> TokenStatistics:
    named = {field.name: getattr(statistics, field.name) for field in fields(statistics)}
    return replace(statistics, **{name: value[:0] for name, value in named.items() if value is not None})
