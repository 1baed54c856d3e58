"""The supervised objectives: one enum, so that two can never be on at once."""

from typing import Annotated, Literal

from pydantic import Field

from service.contract.strict_model import StrictModel


class CrossEntropyObjective(StrictModel):
    """Plain cross entropy, the baseline."""

    type: Literal["ce"] = "ce"


class SedObjective(StrictModel):
    """Cross entropy plus `lambda * (p - 1/2)^2` on flexible tokens (SED-SFT, arXiv 2602.07464).

    The defaults are the paper's. A token is flexible when the mass of its `top_k` likeliest tokens lies strictly
    below tau.
    """

    type: Literal["sed"] = "sed"
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


ObjectiveSpec = Annotated[CrossEntropyObjective | SedObjective, Field(discriminator="type")]
