"""`python -m glc.bench` is the command `glc-bench`."""

from glc.bench.command import main

main()
