"""GLC: images below 0.04 bits per pixel, as files that decode.

codec = glc.Codec.open("model.glcb")
data = codec.encode(image, quality=1)      # (H, W, 3) uint8 -> bytes
image = codec.decode(data)                 # -> (H, W, 3) uint8
"""

from glc.errors import BitstreamError, BundleError, EngineError, ExportError, FileError, GlcError
from glc.runtime import Bundle, Codec, PartialImage, StreamInfo, inspect

__version__ = "0.1.0"

__all__ = [
    "BitstreamError",
    "Bundle",
    "BundleError",
    "Codec",
    "EngineError",
    "ExportError",
    "FileError",
    "GlcError",
    "PartialImage",
    "StreamInfo",
    "__version__",
    "inspect",
]
