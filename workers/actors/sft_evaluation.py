"""What the held-out samples say about the model: metrics over all of them, and the first few token by token.

Nothing here draws a random number or leaves a gradient, so a run trains the same whether it is measured or not.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from service.contract.messages import MAX_VIEWED_TOKENS, TokenView
from service.contract.stages import SftSpec
from workers.actors.policy_model import PolicyModel
from workers.actors.trainer_results import StepMetrics
from workers.data.token_pieces import token_pieces
from workers.data.token_sequence import TokenSequence
from workers.objectives.base import (
    ObjectiveOutput,
    StatisticsNeeds,
    SupervisedObjective,
    TokenStatistics,
    WeightedObjective,
)
from workers.objectives.cross_entropy import CrossEntropy
from workers.objectives.step_metrics import token_means
from workers.reporter.text import storable

MEASURED = ("nll", "entropy", "mean_token_accuracy", "sed/penalised_fraction")
"""Metrics of training steps, `sft/…`, that the held-out samples have as `sft/eval/…`; the last one with SED only."""
VIEW_TOP_K = 2
"""Likeliest tokens whose mass a view shows where the objective names no number."""


class HeldOutEvaluation:
    """Measures a model on samples that it is not trained on."""

    def __init__(
        self,
        policy: PolicyModel,
        spec: SftSpec,
        objective: SupervisedObjective,
        samples: Sequence[TokenSequence],
        *,
        tau: float | None,
    ) -> None:
        self._policy = policy
        self._spec = spec
        self._objective = objective
        self._samples = samples
        self._viewed = samples[: spec.num_token_view_samples]
        self._tau = tau

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether the model is to be looked at after so many steps: before the first, each `eval_steps`, at the end."""
        asked = self._spec.eval_steps is not None and step % self._spec.eval_steps == 0
        return bool(self._samples) and (asked or step in (0, num_steps))

    def measure(self, step: int) -> StepMetrics:
        """Means over the label tokens of all held-out samples, whatever the micro-batches and ranks."""
        outputs = []
        for indices in self._microbatches(self._samples):
            outputs.append(self._sums(self._statistics([self._samples[index] for index in indices])))
        whole = self._policy.ranks.merge(outputs)
        means = token_means([whole], sum(sample.num_labels for sample in self._samples))
        values = {f"sft/eval/{name}": means[f"sft/{name}"] for name in MEASURED if f"sft/{name}" in means}
        return StepMetrics(step=step, values=values)

    def token_views(self, step: int) -> list[TokenView]:
        """The first held-out samples token by token."""
        views = []
        for indices in self._microbatches(self._viewed):
            statistics = self._statistics([self._viewed[index] for index in indices], top_k=self._top_k)
            columns = self._columns(statistics)
            begin = 0
            for index in indices:
                end = begin + self._viewed[index].num_labels
                own = {name: None if values is None else values[begin:end] for name, values in columns.items()}
                views.append(self._view(step, index, own))
                begin = end
        of_all = [view for share in self._policy.ranks.gather(views) for view in share]
        return sorted(of_all, key=lambda view: view.sample_index)

    @property
    def _top_k(self) -> int:
        return self._objective.needs.top_k or VIEW_TOP_K

    def _statistics(self, samples: Sequence[TokenSequence], *, top_k: int | None = None) -> TokenStatistics:
        """What the objective's weight is made of; an objective without one gets the usual statistics."""
        needs = self._objective.needs if isinstance(self._objective, WeightedObjective) else StatisticsNeeds()
        if top_k is not None:
            needs = replace(needs, top_k=top_k)
        return self._policy.statistics(samples, needs=needs, packing=self._spec.packing)

    def _microbatches(self, samples: Sequence[TokenSequence]) -> list[list[int]]:
        max_tokens = self._spec.microbatch_tokens(on_gpu=self._policy.on_gpu)
        return self._policy.microbatches(samples, max_tokens, packing=self._spec.packing)

    def _sums(self, statistics: TokenStatistics) -> ObjectiveOutput:
        objective = self._objective if isinstance(self._objective, WeightedObjective) else CrossEntropy()
        return objective(statistics)

    def _columns(self, statistics: TokenStatistics) -> dict[str, list[float] | None]:
        """The values of a view by its fields, of all label tokens of a micro-batch."""
        topk_mass_N = statistics.topk_mass_N
        assert topk_mass_N is not None, "statistics were made without top_k"
        weight_N = (
            token_weights(self._objective, statistics) if isinstance(self._objective, WeightedObjective) else None
        )
        return {
            "label_probs": _shown(torch.exp(-statistics.nll_N)),
            "topk_masses": _shown(topk_mass_N),
            "entropies": _shown(statistics.entropy_N),
            "weights": None if weight_N is None else _shown(weight_N),
        }

    def _view(self, step: int, index: int, values: dict[str, list[float] | None]) -> TokenView:
        sample = self._viewed[index]
        token_ids = [*sample.prompt_token_ids, *sample.completion_token_ids][:MAX_VIEWED_TOKENS]
        is_trained = [False] * len(sample.prompt_token_ids) + list(
            sample.is_trained or (True,) * len(sample.completion_token_ids)
        )
        columns = {name: _spread(column, is_trained)[:MAX_VIEWED_TOKENS] for name, column in values.items()}
        return TokenView(
            stage="sft",
            step=step,
            sample_index=index,
            tokens=[storable(piece) for piece in token_pieces(self._policy.tokenizer, token_ids)],
            token_ids=token_ids,
            top_k=self._top_k,
            tau=self._tau,
            **columns,
        )


def token_weights(objective: WeightedObjective, statistics: TokenStatistics) -> Tensor:
    """The objective's factor on each token's gradient of cross entropy, [N], as training takes it: by autograd."""
    with torch.enable_grad():
        nll_N = statistics.nll_N.detach().requires_grad_()
        (weight_N,) = torch.autograd.grad(objective(replace(statistics, nll_N=nll_N)).loss_sum, nll_N)
    return weight_N


def _shown(values_N: Tensor) -> list[float]:
    """Six digits are enough for a person, and halve a report."""
    return [float(f"{value:.6g}") for value in values_N.tolist()]


def _spread(values: list[float] | None, is_trained: Sequence[bool]) -> list[float | None]:
    """One entry per token of the sample, None where it is not trained or there are no values."""
    if values is None:
        return [None] * len(is_trained)
    remaining = iter(values)
    return [next(remaining) if trained else None for trained in is_trained]
