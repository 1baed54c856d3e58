"""The supervised objectives: one enum, so that two can never be on at once.

In the formulas p_j is the probability of token j, y the label, p its probability, V the vocabulary, and sg stops the
gradient. p_ref is the distribution of the reference: the model as it was when the stage began, frozen.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.contract.strict_model import StrictModel


class CrossEntropyObjective(StrictModel):
    """-log p: plain cross entropy, the baseline."""

    type: Literal["ce"] = "ce"


class SedObjective(StrictModel):
    """Cross entropy plus `lambda * (p - 1/2)^2` on flexible tokens (SED-SFT, arXiv 2602.07464).

    The defaults are the paper's. A token is flexible when the mass of its `top_k` likeliest tokens lies strictly
    below tau.
    """

    type: Literal["sed"] = "sed"
    preset: Literal["paper"] | None = None
    """`paper` stands for lambda 1, top_k 2, mask topk, mask_ratio 0.7 and a calibrated tau, and lets nothing contradict
    them."""
    lambda_: float = Field(default=1.0, alias="lambda", ge=0.0, allow_inf_nan=False)
    top_k: int = Field(default=2, ge=1)
    mask: Literal["topk", "none"] = "topk"
    """`none` penalises every token: the paper's ablation."""
    mask_ratio: float = Field(default=0.7, ge=0.0, le=1.0)
    """Share of response tokens that the calibrated tau leaves without a penalty."""
    tau: float | None = Field(default=None, ge=0.0, le=1.0)
    """An explicit threshold; without it tau is calibrated once on the untrained model and kept for the whole run."""
    calibration_samples: int = Field(default=100, ge=1)
    """Training samples whose response tokens calibrate tau."""

    @model_validator(mode="after")
    def _preset_holds(self) -> Self:
        if self.preset is None:
            return self
        others = [
            f"{name} {value} ({self.preset}: {'calibrated' if wanted is None else wanted})"
            for name, value, wanted in (
                ("lambda", self.lambda_, 1.0),
                ("top_k", self.top_k, 2),
                ("mask", self.mask, "topk"),
                ("mask_ratio", self.mask_ratio, 0.7),
                ("tau", self.tau, None),
            )
            if value != wanted
        ]
        if others:
            raise ValueError(
                f"preset '{self.preset}' fixes what {', '.join(others)} would change; leave that out, or the preset"
            )
        return self


class GemObjective(StrictModel):
    """Gradient q_j - 1[j = y] with q = sg(softmax(logits / beta)) (GEM, arXiv 2408.16673).

    Values are surrogates and may be negative. The authors' program defaults to `linear`, their scripts pass
    `logsigmoid`, whose gradient is about half as large.
    """

    type: Literal["gem"] = "gem"
    h: Literal["linear", "logsigmoid"] = "linear"
    beta: float = Field(default=0.7, gt=0.0, allow_inf_nan=False)
    """Temperature of q; with 1 and `linear` the gradient is that of cross entropy."""


class DftObjective(StrictModel):
    """-sg(p) log p (DFT, arXiv 2508.05629). The probability is float32 at least, unlike in the authors' code."""

    type: Literal["dft"] = "dft"


class PowerObjective(StrictModel):
    """(1 - p^q) / q (arXiv 2510.00526): q = 1 is 1 - p, q towards 0 cross entropy."""

    type: Literal["power"] = "power"
    q: float = Field(gt=0.0, allow_inf_nan=False)


class DeftObjective(StrictModel):
    """(1 - p^a) / (a + 1e-6) with a = sg(sum of p_j^2) (DEFT, arXiv 2602.11424)."""

    type: Literal["deft"] = "deft"


class EaftObjective(StrictModel):
    """-sg((H / ln top_k)^alpha) log p, H the renormalised entropy of the likeliest tokens (EAFT, arXiv 2601.02151).

    The authors' code divides H by 3 for `top_k` 20; this follows the paper, so that the weight lies in [0, 1].
    """

    type: Literal["eaft"] = "eaft"
    alpha: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    top_k: int = Field(default=20, ge=2)


class ProfitObjective(StrictModel):
    """-log p where p >= threshold, else nothing (ProFit, arXiv 2601.09195).

    Dropped tokens count in the denominator, as in the authors' code.
    """

    type: Literal["profit"] = "profit"
    threshold: float = Field(default=0.1, ge=0.0, le=1.0)


class FocalObjective(StrictModel):
    """-(1 - p)^gamma log p (arXiv 1708.02002)."""

    type: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0.0, allow_inf_nan=False)


class LabelSmoothingObjective(StrictModel):
    """-(1 - epsilon) log p - epsilon * mean of log p_j over the vocabulary (arXiv 1512.00567, torch's convention)."""

    type: Literal["label_smoothing"] = "label_smoothing"
    epsilon: float = Field(default=0.1, ge=0.0, lt=1.0)


class EntropyRegularisedObjective(StrictModel):
    """-log p - lambda * entropy, at every token (arXiv 1701.06548)."""

    type: Literal["entropy_regularised"] = "entropy_regularised"
    lambda_: float = Field(alias="lambda", ge=0.0, allow_inf_nan=False)


class AsftObjective(StrictModel):
    """-sg(p) log p + kl_coef * KL(p_ref || p) (ASFT, arXiv 2509.23753); with `kl_coef` 0 it is `dft`.

    The default is that of the authors' code; the command in their README passes 0.05.
    """

    type: Literal["asft"] = "asft"
    kl_coef: float = Field(default=0.1, ge=0.0, allow_inf_nan=False)


class GiftObjective(StrictModel):
    """Cross entropy to softmax(log r + beta * 1[j = y]), r = (1 - smoothing) p_ref + smoothing / V (arXiv 2601.09233).

    With the authors' defaults this is cross entropy but on labels that the reference holds for all but impossible.
    """

    type: Literal["gift"] = "gift"
    beta: float = Field(default=20.0, ge=0.0, allow_inf_nan=False)
    """What the label's logit is raised by; 0 distils the reference."""
    smoothing: float = Field(default=0.0, ge=0.0, le=1.0)


class EksftObjective(StrictModel):
    """Three means over the optimizer step: of -log p over the tokens in neither of two sets, of -entropy / ln V over
    the tokens of highest entropy, of KL(p || p_ref) over those of highest KL (EKSFT, arXiv 2605.29303).

    The authors' code takes the sets within a micro-batch, one position beside the labels, and its KL term has p where
    the divergence has log p; this follows the paper. Both sets' fractions are one setting there.
    """

    type: Literal["eksft"] = "eksft"
    entropy_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the step's label tokens in the entropy set."""
    kl_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the step's label tokens in the KL set."""
    entropy_coef: float = Field(default=0.05, ge=0.0, allow_inf_nan=False)
    kl_coef: float = Field(default=0.05, ge=0.0, allow_inf_nan=False)


ObjectiveSpec = Annotated[
    CrossEntropyObjective
    | SedObjective
    | GemObjective
    | DftObjective
    | PowerObjective
    | DeftObjective
    | EaftObjective
    | ProfitObjective
    | FocalObjective
    | LabelSmoothingObjective
    | EntropyRegularisedObjective
    | AsftObjective
    | GiftObjective
    | EksftObjective,
    Field(discriminator="type"),
]


def needs_reference_model(spec: ObjectiveSpec) -> bool:
    """Whether a frozen second copy of the model is held beside the trained one."""
    match spec:
        case AsftObjective():
            return spec.kl_coef > 0.0
        case GiftObjective() | EksftObjective():
            return True
        case _:
            return False
