"""`python -m glc.export` is the command `glc-export`."""

from glc.export.command import main

main()
