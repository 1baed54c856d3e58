"""The frozen model that some objectives of the supervised stage compare with."""

from collections.abc import Sequence

import torch

from service.contract.spec import ModelSpec
from workers.actors.policy_model import PolicyModel
from workers.data.token_sequence import TokenSequence
from workers.objectives.output_head import ReferenceRows


class ReferenceModel:
    """The model as it was when the stage began: always that of `spec.path`, also in a run that resumes.

    A second copy of the weights, without adapters, in the dtype of the forward pass: in bfloat16 half the size of
    weights that are trained, which are float32, and so a rounding away from them before the first step. It sees the
    samples as they are, without the noise that training may put on their embeddings.
    """

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        """Load from `spec.path`. Raises ConfigError if the folder cannot work."""
        bare = spec.model_copy(update={"lora": None, "gradient_checkpointing": False})
        self._model = PolicyModel(bare, device)
        for parameter in self._model.model.parameters():
            # Not the whole module: its buffers, such as rotary frequencies, need their precision.
            parameter.data = parameter.data.to(self._model.dtype)
            parameter.requires_grad_(False)

    def rows(self, sequences: Sequence[TokenSequence], *, packing: bool = False) -> ReferenceRows:
        """What it makes of a micro-batch's label tokens, one sequence after the other."""
        return self._model.label_rows(sequences, packing=packing)
