"""Encode an image and decode it again: python examples/quickstart.py model.glcb photo.png"""

import sys

import numpy as np
from PIL import Image

import glc


def main(bundle: str, photo: str) -> None:
    image = np.asarray(Image.open(photo).convert("RGB"))
    with glc.Codec.open(bundle) as codec:
        data = codec.encode(image, quality=1)
        decoded = codec.decode(data)
        preview = codec.preview(data[: len(data) // 2])
    info = glc.inspect(data)
    print(f"decoded {decoded.shape}, preview {preview.shape}")
    print(f"{info.header.width}x{info.header.height}, {len(data)} bytes, {info.bpp:.4f} bpp")


if __name__ == "__main__":
    main(*sys.argv[1:])
