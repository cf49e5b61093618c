"""Types of what runtime/entropy.py uses of constriction 0.4 and 0.5, which ships none."""

from . import stream as stream
