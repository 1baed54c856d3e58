"""What the API answers about exported models. The client reads these too."""

from service.contract.stages import StageName
from service.contract.strict_model import WireModel


class ModelFileOut(WireModel):
    """A file of a model's folder."""

    name: str
    """May have folders in it, such as `adapter/adapter_config.json`."""
    num_bytes: int


class ModelFilesPage(WireModel):
    """The model that a stage has left, a Hugging Face folder."""

    stage: StageName
    experiment_id: str
    """That made it: another one where the stage was reused."""
    items: list[ModelFileOut]
