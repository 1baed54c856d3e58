"""Arguments that many commands take."""

from typing import Annotated

import typer

from api.cli.completion import experiment_ids, study_ids

ExperimentId = Annotated[
    str,
    typer.Argument(
        help="The experiment's id, as `sedray ls` shows it.", show_default=False, autocompletion=experiment_ids
    ),
]
ExperimentIds = Annotated[
    list[str],
    typer.Argument(
        help="Ids of experiments, as `sedray ls` shows them; several are one request.",
        show_default=False,
        autocompletion=experiment_ids,
    ),
]
StudyId = Annotated[
    str,
    typer.Argument(help="The study's id, as `sedray study ls` shows it.", show_default=False, autocompletion=study_ids),
]
