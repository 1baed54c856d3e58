"""The groups in which `sedray --help` lists commands."""

RUN = "Run experiments"
LOOK = "Look at what they do and leave behind"
QUEUE = "The queue"
STUDIES = "Studies and data"
SERVICE = "The service and its people"
HERE = "This machine"
ORDER = (RUN, LOOK, QUEUE, STUDIES, SERVICE, HERE)
