"""A causal language model taken apart into the body that makes hidden states and the output layer behind it.

How logits come out of the output layer differs between models: some scale them, some cap them softly. What the config
says about that is read here, and then proven on a few tokens against the model's own logits: a model that does anything
else is refused, since training on other logits than it is used with would go wrong in silence. In the same way it is
found out whether the body keeps the sequences of a packed row apart.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workers.actors.packed_attention import adopt_attention, alike
from workers.config_error import ConfigError
from workers.data.packed_row import PackedRow
from workers.objectives.output_head import OutputHead

NUM_PROBE_TOKENS = 8


class SplitModel:
    """Body and output layer of a model. Both stay the model's own: their weights are trained."""

    def __init__(self, model: PreTrainedModel, folder: str) -> None:
        """Raises ConfigError, naming `folder`, if the model cannot be taken apart or its logits come out otherwise."""
        self._body = model.base_model
        self._output = _output_layer(model, folder)
        self._takes_positions = "position_ids" in inspect.signature(self._body.forward).parameters
        config = model.config.get_text_config()
        self._scale = _scale(config)
        softcap = _number(config, "final_logit_softcapping") or _number(config, "logits_soft_cap")
        self._softcap = softcap
        if self._body is model:
            raise ConfigError(
                f"the model in {folder} is one module that cannot be run without its output layer; "
                "use a causal language model with a separate body"
            )
        adopted = adopt_attention(model)
        self._prove(model, folder)
        self._packs = adopted and self._takes_positions and self._keeps_apart()
        self._name = f"the model in {folder} ({type(model).__name__})"

    @property
    def vocab_size(self) -> int:
        """Rows of the output layer."""
        return len(self._output.weight)

    @property
    def packs(self) -> bool:
        """Whether the body keeps the sequences of a packed row apart."""
        return self._packs

    def require_packing(self) -> None:
        """Raises ConfigError if the body lets a packed sequence see another one."""
        if not self._packs:
            raise ConfigError(
                f"{self._name} cannot keep packed sequences apart: it has layers that are not causal attention, or an "
                "attention of its own kind; set sft.packing to false"
            )

    def hidden(self, input_ids_BT: Tensor, position_ids_BT: Tensor, packed_row: PackedRow | None = None) -> Tensor:
        """[B, T, H]: what the output layer would read. No attention mask: padding is behind every real token.

        `packed_row` says how sequences lie in a single row that holds them end to end; see `require_packing`.
        """
        # A body without position ids counts from 0 by itself, as padded batches do.
        further: dict[str, Any] = {"position_ids": position_ids_BT} if self._takes_positions else {}
        if packed_row is not None:
            further["packed_row"] = packed_row
        hidden: Tensor = self._body(input_ids=input_ids_BT, use_cache=False, **further).last_hidden_state
        return hidden

    def head(self, dtype: torch.dtype) -> OutputHead:
        """The output layer for the fused loss; `dtype` is that of its products."""
        return OutputHead(
            weight_VH=self._output.weight,
            bias_V=self._output.bias,
            scale=self._scale,
            softcap=self._softcap,
            dtype=dtype,
        )

    @torch.no_grad()
    def _keeps_apart(self) -> bool:
        """Whether packed sequences come out as they do alone."""
        device = self._output.weight.device
        lengths = [NUM_PROBE_TOKENS // 2 + 1, NUM_PROBE_TOKENS // 2 - 1]
        ids_1T = torch.arange(sum(lengths), device=device).remainder(self.vocab_size).unsqueeze(0)
        positions_1T = torch.cat([torch.arange(length, device=device) for length in lengths]).unsqueeze(0)
        parts = zip(torch.split(ids_1T, lengths, 1), torch.split(positions_1T, lengths, 1), strict=True)
        alone = torch.cat([self.hidden(ids, positions) for ids, positions in parts], dim=1)
        try:
            return alike(self.hidden(ids_1T, positions_1T, PackedRow.end_to_end(lengths).to(device)), alone)
        except TypeError:  # The body takes nothing that its layers would need to know.
            return False

    @torch.no_grad()
    def _prove(self, model: PreTrainedModel, folder: str) -> None:
        device = self._output.weight.device
        ids_BT = torch.arange(min(NUM_PROBE_TOKENS, self.vocab_size), device=device).unsqueeze(0)
        expected = model(input_ids=ids_BT, use_cache=False).logits
        try:
            hidden = self.hidden(ids_BT, torch.arange(ids_BT.shape[1], device=device).unsqueeze(0))
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                f"the body of the model in {folder} ({type(self._body).__name__}) gives no hidden states: {error}; "
                "use another causal language model"
            ) from error
        if hidden.shape[-1] == self._output.in_features:
            logits = self._output(hidden) * self._scale
            if self._softcap is not None:
                logits = self._softcap * torch.tanh(logits / self._softcap)
            if alike(logits, expected):
                return
        raise ConfigError(
            f"the model in {folder} ({type(model).__name__}) makes its logits in a way that the trainer does not know: "
            f"hidden states times the output layer, scale {self._scale:g} and soft cap {self._softcap} do not give "
            "them; use another model, or teach workers/actors/hidden_states.py about this one"
        )


def _output_layer(model: PreTrainedModel, folder: str) -> torch.nn.Linear:
    output = model.get_output_embeddings()
    if output is None:
        raise ConfigError(f"the model in {folder} has no output layer over a vocabulary; give a causal LM")
    if not isinstance(output, torch.nn.Linear):
        raise ConfigError(
            f"the output layer of the model in {folder} is a {type(output).__name__}, not a linear layer; "
            "give an unquantised causal LM"
        )
    return output


def _scale(config: object) -> float:
    """Cohere and Falcon-H1 multiply, Granite divides; each config has one of the names at most."""
    factor = _number(config, "logit_scale") or _number(config, "lm_head_multiplier") or 1.0
    return factor / (_number(config, "logits_scaling") or 1.0)


def _number(config: object, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
