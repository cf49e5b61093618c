"""What a codec may do with a stream that nobody vouches for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tests.hostile.container import CELL, Stated, stated
from tests.hostile.measuring import Measured, Outcome, finished, measured, process_peak_bytes, traced
from tests.hostile.mutations import StreamCase

import glc
from glc.runtime.bitstream import Form
from glc.runtime.codec import Image

_LADDER = (1, 2, 4, 8, 16, 32, 64)
_UNEVEN = 1.25
_LITTLE_BYTES = 64 << 10


class Decoder(Protocol):
    """What of a codec is put to the test."""

    def decode(self, data: bytes, *, form: Form = "file", allow_partial: bool = False) -> Image:
        """See `Codec.decode`."""
        ...

    def decode_partial(self, data: bytes, *, form: Form = "file") -> glc.PartialImage:
        """See `Codec.decode_partial`."""
        ...

    def decode_latent(self, data: bytes, *, form: Form = "file") -> NDArray[np.float32]:
        """See `Codec.decode_latent`."""
        ...

    def preview(self, data: bytes, *, form: Form = "file") -> Image:
        """See `Codec.preview`."""
        ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """Memory of Python and numpy that decoding a valid stream takes, by the number of its z indices."""

    ladder: tuple[tuple[int, int], ...]
    """(z indices, bytes) of valid streams, measured; latent, symbols and image all grow with the z indices."""

    @classmethod
    def measure(cls, codec: glc.Codec) -> Allowance:
        """Decode valid streams of noise, which have the most symbols beyond the tables, at the highest quality.

        Each takes its memory anew, and all of it is seen: what waits from an image of another size was taken unseen.
        """
        pixels = np.random.RandomState(0)
        images = [pixels.randint(0, 256, (CELL, CELL * cells, 3)).astype(np.uint8) for cells in _LADDER]
        streams = [codec.encode(image, codec.qualities - 1) for image in images]
        ladder = []
        for cells, data in zip(_LADDER, streams, strict=True):
            peaks = []
            for decode in (codec.decode, codec.decode_partial):
                codec.decode(streams[-1 if data is streams[0] else 0])
                with traced():
                    answer: Measured[Any] = measured("decode", functools.partial(decode, data))
                peaks.append(answer.peak_bytes)
            ladder.append((cells, max(peaks)))
        return cls(tuple(ladder))

    def bytes_for(self, cells: int) -> int:
        """What a valid stream takes, in proportion beyond the ladder; a quarter more for what is not in proportion."""
        counts, peaks = zip(*self.ladder, strict=True)
        most = counts[-1]
        valid = np.interp(cells, counts, peaks) if cells <= most else peaks[-1] * cells / most
        return _LITTLE_BYTES + int(_UNEVEN * valid)


class StreamRunner:
    """Makes cases for one codec."""

    def __init__(self, codec: Decoder, cases: Callable[[int], StreamCase], allowance: Allowance) -> None:
        self.codec = codec
        self.allowance = allowance
        self.start_bytes = process_peak_bytes()
        self._cases = cases

    def prepare(self, number: int) -> PreparedStream:
        """Make one case."""
        case = self._cases(number)
        return PreparedStream(self, case, Outcome(f"s{number}", case.kind))


@dataclass(frozen=True, slots=True)
class PreparedStream:
    """One case."""

    runner: StreamRunner
    case: StreamCase
    blank: Outcome

    def run(self) -> Outcome:
        """Hand the stream to the codec and judge its answers."""
        case = self.case
        told = stated(case.data, case.form)
        # A size that the payload cannot carry must be refused before any memory is taken for it.
        cells = min(told.cells, len(case.data) + 16) if told else 1
        allowed = self.runner.allowance.bytes_for(cells) + 8 * len(case.data)
        answers = [measured(name, self._call(name)) for name in case.calls]
        violations = [text for answer in answers for text in answer.complaints() + answer.hangs()]
        shown = (0, 0)
        for answer in answers:
            if answer.error is None:
                violations += _lies(answer, told)
                if told is not None and answer.name not in ("inspect", "latent"):
                    shown = (told.height, told.width)
            if answer.peak_bytes > allowed:
                violations.append(
                    f"{answer.name} took {answer.peak_bytes} bytes; a valid stream of {cells} z indices takes {allowed}"
                )
        return finished(self.blank, answers, violations, shown, self.runner.start_bytes)

    def _call(self, name: str) -> Callable[[], Any]:
        codec, data, form = self.runner.codec, self.case.data, self.case.form
        calls: dict[str, Callable[[], Any]] = {
            "inspect": lambda: glc.inspect(data, form),
            "decode": lambda: codec.decode(data, form=form),
            "latent": lambda: codec.decode_latent(data, form=form),
            "allow_partial": lambda: codec.decode(data, form=form, allow_partial=True),
            "decode_partial": lambda: codec.decode_partial(data, form=form),
            "preview": lambda: codec.preview(data, form=form),
        }
        return calls[name]


def _lies(answer: Measured[Any], told: Stated | None) -> list[str]:
    """What an answer without an exception says that the bytes do not."""
    name = answer.name
    value: Any = answer.value
    if told is None:
        return [f"{name} took for a stream what has no header of one"]
    if name == "inspect":
        header = value.header
        found = (header.quality_units, header.width, header.height, value.header_bytes, value.intact)
        wanted = (told.quality_units, told.width, told.height, told.payload_at, told.intact)
        return [] if found == wanted else [f"inspect says {found}; the header says {wanted}"]
    if name in ("decode", "latent") and not told.intact:
        return [f"{name} returned an image although the checksum does not match"]
    if name == "latent":
        return [] if np.isfinite(value).all() else ["the latent is not finite"]
    if name == "decode_partial":
        if not 0 <= value.symbols <= 1:
            return [f"decode_partial says that it has {value.symbols} of the symbols"]
        value = value.image
    if not _is_image(value) or value.shape != (told.height, told.width, 3):
        return [f"{name} returned {value.dtype} {value.shape}; the header says {told.width}x{told.height}"]
    return []


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8
