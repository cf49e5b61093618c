"""Patch attention against a loop over patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glc.export.autoencoder import PatchAttention

CHANNELS = 32


def _looped(attention: PatchAttention, x: Tensor) -> Tensor:
    """GLC.md read literally: one patch after the other, each over its own positions."""
    normed = attention.norm(x)
    q, k, v = attention.q(normed), attention.k(normed), attention.v(normed)
    mixed = torch.empty_like(x)
    for top in range(0, x.shape[2], attention.patch):
        for left in range(0, x.shape[3], attention.patch):
            at = (0, slice(None), slice(top, top + attention.patch), slice(left, left + attention.patch))
            queries, keys, values = (t[at].flatten(1).T for t in (q, k, v))
            weights = torch.softmax(queries @ keys.T / CHANNELS**0.5, dim=-1)
            mixed[at] = (weights @ values).T.reshape(mixed[at].shape)
    result: Tensor = x + attention.proj_out(mixed)
    return result


@pytest.mark.parametrize(
    ("height", "width", "patch"),
    [
        pytest.param(32, 32, 32, id="one whole patch"),
        pytest.param(4, 4, 32, id="smaller than a patch"),
        pytest.param(8, 70, 32, id="smaller one way"),
        pytest.param(64, 32, 32, id="whole patches"),
        pytest.param(33, 65, 32, id="one position over"),
        pytest.param(36, 52, 32, id="ragged both ways"),
        pytest.param(20, 36, 16, id="another patch size"),
    ],
)
def test_all_patches_at_once_equal_a_loop_over_patches(height: int, width: int, patch: int) -> None:
    torch.manual_seed(0)
    attention = PatchAttention(CHANNELS, patch).double()
    x = torch.randn(1, CHANNELS, height, width, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x), _looped(attention, x), rtol=0, atol=1e-13)
