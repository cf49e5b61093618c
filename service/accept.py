"""Which image format an answer has: the query's, else the best that the Accept header takes."""

from __future__ import annotations

from glc.service.coding import MEDIA_TYPES
from glc.service.problems import Refused


def chosen_format(accept: str | None, asked: str | None) -> str:
    """A key of `MEDIA_TYPES`; of formats that are as welcome, the first.

    Args:
        accept: the Accept header, None where there is none.
        asked: of the query, None where it names none.

    Raises:
        Refused: 406, the header takes none of them.
    """
    if asked is not None:
        return asked
    if accept is None:
        return next(iter(MEDIA_TYPES))
    weights = _weights(accept)
    welcome = {kind: _welcome(media_type, weights) for kind, media_type in MEDIA_TYPES.items()}
    best = max(welcome, key=lambda kind: welcome[kind])
    if welcome[best] <= 0:
        words = f"The Accept header takes none of: {', '.join(MEDIA_TYPES.values())}."
        raise Refused(406, "not_acceptable", words)
    return best


def _weights(accept: str) -> dict[str, float]:
    """Media range -> weight; one that cannot be read counts as 0."""
    weights = {}
    for part in accept.split(","):
        media_range, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        digits = weight.replace(".", "", 1)
        weights[media_range] = float(weight) if digits.isascii() and digits.isdigit() and len(weight) <= 5 else 0.0
    return weights


def _welcome(media_type: str, weights: dict[str, float]) -> float:
    """Weight of the closest range, as RFC 9110 has it."""
    for media_range in (media_type, "image/*", "*/*"):
        if media_range in weights:
            return weights[media_range]
    return 0.0
