"""The frozen model that some objectives of the supervised stage compare with."""

from collections.abc import Sequence
from contextlib import nullcontext

from workers.actors.policy_model import PolicyModel
from workers.data.token_sequence import TokenSequence
from workers.objectives.output_head import ReferenceRows


class ReferenceModel:
    """The model as it was when the stage began: always that of `model.path`, also in a run that resumes.

    Beside adapters it is the trained model itself with its adapters off. Else, and where several ranks share the
    trained model, whose weights are whole during its own passes only, it is a second copy, whole on each rank. The copy
    has the dtype of the forward pass: in bfloat16 half the size of weights that are trained, which are float32, and so
    a rounding away from them before the first step. It sees the samples as they are, without the noise that training
    may put on their embeddings.
    """

    def __init__(self, policy: PolicyModel) -> None:
        """Load what `policy` was loaded from, if need be. Raises ConfigError if the folder cannot work."""
        self._adapters = policy.adapters if policy.ranks.is_alone else None
        if self._adapters is not None:
            self._model = policy
        else:
            bare = policy.spec.model_copy(update={"lora": None, "gradient_checkpointing": False})
            self._model = PolicyModel(bare, policy.device, frozen=True)

    def rows(self, sequences: Sequence[TokenSequence], *, packing: bool = False) -> ReferenceRows:
        """What it makes of a micro-batch's label tokens, one sequence after the other."""
        with nullcontext() if self._adapters is None else self._adapters.off():
            return self._model.label_rows(sequences, packing=packing)
