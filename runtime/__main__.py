"""`python -m glc.runtime` is the command `glc`."""

from glc.runtime.command import main

main()
