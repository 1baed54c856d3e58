"""`python -m api.cli` is `sedray`."""

from api.cli import main

main()
