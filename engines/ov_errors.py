"""What OpenVINO's errors say, without the places in its source."""

from __future__ import annotations


def last_line(error: Exception) -> str:
    """The line that tells: the last that is not empty; the error's type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
