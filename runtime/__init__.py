"""The lean runtime: bundles, bitstreams and the codec. Needs numpy and one engine; never torch."""

from glc.runtime.bitstream import StreamInfo, inspect
from glc.runtime.bundle import Bundle
from glc.runtime.codec import Codec, PartialImage

__all__ = ["Bundle", "Codec", "PartialImage", "StreamInfo", "inspect"]
