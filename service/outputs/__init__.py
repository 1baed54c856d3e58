"""What a run leaves in its folder for others to use: checkpoints to go on from, and exported models.

    OUTPUT/checkpoints/<stage>/step-00000228/…   id `<stage>.step-00000228`
    OUTPUT/models/<stage>/…                      id `<stage>.model`

listing   which there are, with their files
archive   one of them, or a file of it, as a stream

Only what is listed is ever opened, and nothing that lies outside the experiment's folder is listed.
"""

from service.outputs.archive import Download, open_archive, open_file
from service.outputs.listing import Output, OutputFile, list_outputs

__all__ = ["Download", "Output", "OutputFile", "list_outputs", "open_archive", "open_file"]
