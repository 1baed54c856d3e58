"""`python -m api.cli` is `sedray`."""

from api.cli.commands import main

main()
