"""What the template of a study's report shows its figures with."""

from types import SimpleNamespace

from api.web import study_plots
from service.study_report.rendering import text
from service.study_report.wording import POINT_NAMES, shown_p

VIEW = SimpleNamespace(
    POINT_NAMES=POINT_NAMES,
    STEP_AXES=study_plots.STEP_AXES,
    per_cent=text.per_cent,
    plain=text.plain,
    points=text.points,
    bounds=text.bounds,
    number=text.number,
    hours=text.hours,
    share=text.share,
    seeds=text.seeds,
    verdict=text.verdict,
    shown_p=shown_p,
    cost_plots=study_plots.cost_plots,
    has_gpus=study_plots.has_gpus,
    pass_plots=study_plots.pass_plots,
    scatter_plots=study_plots.scatter_plots,
    step_plots=study_plots.step_plots,
)
"""The template's `view`, beside `report`."""
