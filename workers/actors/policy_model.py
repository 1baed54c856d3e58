"""The model that is trained, its tokenizer, and the one forward pass that all stages share."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from service.contract.spec import ModelSpec
from workers.actors.trainer_results import ModelFacts
from workers.data.batching import TokenSequence, collate
from workers.model_loading import ConfigError, end_token_ids, load_model, load_tokenizer, torch_dtype
from workers.objectives.base import IGNORED, TokenStatistics, token_statistics


class PolicyModel:
    """A causal language model on its device. Weights are float32; `spec.dtype` is that of the forward pass."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        """Load from `spec.path`. Raises ConfigError if the folder cannot work."""
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(spec.path)
        self.model: PreTrainedModel = load_model(spec.path, device)
        self.device = device
        self.dtype = torch_dtype(spec)
        self.facts = self._facts(spec)
        self._picks_positions = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def parameters(self) -> list[torch.nn.Parameter]:
        """All trained parameters, each once."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def statistics(
        self, sequences: Sequence[TokenSequence], *, temperature: float = 1.0, top_k: int | None = None
    ) -> TokenStatistics:
        """One forward pass over a micro-batch: statistics of its completions' tokens, one sequence after the other."""
        batch = collate(sequences, self.facts.pad_token_id)
        labelled_BT = batch.labels_BT != IGNORED
        # Logits only where some sequence has a label: prompts need none, and logits are the largest tensor.
        kept_K = labelled_BT.any(0).nonzero().squeeze(1)
        labelled_BK = labelled_BT[:, kept_K]
        labels_N = batch.labels_BT[labelled_BT].to(self.device)
        logits_BKV = self._logits(
            batch.input_ids_BT.to(self.device), batch.position_ids_BT.to(self.device), kept_K.to(self.device)
        )
        full = bool(labelled_BK.all())
        logits_NV = logits_BKV.flatten(0, 1) if full else logits_BKV[labelled_BK.to(self.device)]
        return token_statistics(logits_NV, labels_N, temperature=temperature, top_k=top_k)

    def _logits(self, input_ids_BT: Tensor, position_ids_BT: Tensor, kept_K: Tensor) -> Tensor:
        """[B, K, V] at the kept positions. No attention mask: padding on the right is behind every real token."""
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype if mixed else None, enabled=mixed):
            if self._picks_positions:
                logits: Tensor = self.model(
                    input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False, logits_to_keep=kept_K
                ).logits
                return logits
            logits = self.model(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False).logits
            return logits[:, kept_K]

    def _facts(self, spec: ModelSpec) -> ModelFacts:
        output = self.model.get_output_embeddings()
        if output is None:
            raise ConfigError(f"the model in {spec.path} has no output layer over a vocabulary; give a causal LM")
        vocab_size = int(output.weight.shape[0])
        if len(self.tokenizer) > vocab_size:
            raise ConfigError(
                f"the tokenizer in {spec.path} knows {len(self.tokenizer)} tokens, the model only {vocab_size}; "
                "they do not belong together"
            )
        pad = self.tokenizer.pad_token_id
        return ModelFacts(
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            vocab_size=vocab_size,
            eos_token_ids=end_token_ids(self.model, self.tokenizer),
            pad_token_id=int(pad if pad is not None else self.tokenizer.eos_token_id),
        )
