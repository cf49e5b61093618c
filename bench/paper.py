"""Tables 5 and 6 of the paper, quoted; its authors measured them."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "paper, A100, PyTorch"


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row; comparable only with a bundle of the same model at the same size."""

    model: str
    table: str
    height: int
    width: int
    encode_ms: float
    decode_ms: float
    parameters: int
    status: str = f"quoted: {SOURCE}"


TABLE_5 = (
    PaperRow("MS-ILLM", "facial, Table 5", 512, 512, 31.4, 39.7, 181_000_000),
    PaperRow("GLC", "facial, Table 5", 512, 512, 19.2, 26.6, 92_000_000),
)

TABLE_6 = (
    PaperRow("Text+Sketch", "natural, Table 6", 512, 768, 2.0e4, 1.9e4, 409_000_000),
    PaperRow("MS-ILLM", "natural, Table 6", 512, 768, 41.8, 53.5, 181_000_000),
    PaperRow("GLC", "natural, Table 6", 512, 768, 37.1, 58.6, 105_000_000),
)
