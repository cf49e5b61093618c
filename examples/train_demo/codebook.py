"""Vector quantisation in training: straight-through gradients, entries that follow the mean of what chose them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glc.export.blocks import Codebook

_FOLLOW = 0.95
_DEAD_BELOW = 0.1
_RESEED_EVERY = 20
_LEAST_SPREAD = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A quantised batch."""

    values: Tensor
    """(B, N, h, w): entries in the forward pass, the identity in the backward pass."""
    indices: Tensor
    """(B, h, w) int32."""
    commitment: Tensor
    """(): mean squared distance of the input from its entries over the input's variance, which has no gradient."""
    shortfall: Tensor
    """(): squared shortfall of the spread of the input, over all channels, from its floor; with a gradient."""
    entropy: Tensor
    """(): entropy in bits of the indices in this batch."""


class TrainedCodebook(nn.Module):
    """Moves the entries of a codebook of the model by exponential averages, without gradients.

    Entries that nothing chooses are put on vectors of the current batch, so that the whole codebook is used.
    """

    usage: Tensor
    sums: Tensor
    steps: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self._codebook = [codebook]  # in a list, so that its tensors do not appear twice in the state
        entries, channels = codebook.embedding.weight.shape
        self.register_buffer("usage", torch.zeros(entries))
        self.register_buffer("sums", torch.zeros(entries, channels))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor, beta: float) -> Quantised:
        """Quantise z (B, N, h, w) float32; the entries move if the module is in training mode."""
        codebook = self._codebook[0]
        indices = codebook.nearest(z.detach())
        if self.training:
            self._follow(z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1]), indices.reshape(-1).long())
        entries = codebook.lookup(indices).detach()
        # Relative, so that shrinking the input does not pay: a commitment in absolute terms draws it to a point.
        variance = z.detach().var(dim=(0, 2, 3)).mean().clamp(min=1e-6)
        shortfall = F.relu(_LEAST_SPREAD - (z.var(dim=(0, 2, 3)).mean() + 1e-6).sqrt()).square()
        share = torch.bincount(indices.reshape(-1), minlength=self.usage.numel()) / indices.numel()
        entropy = -(share * (share + 1e-12).log2()).sum()
        return Quantised(
            z + (entries - z).detach(), indices, beta * F.mse_loss(z, entries) / variance, shortfall, entropy
        )

    @torch.no_grad()
    def _follow(self, vectors: Tensor, indices: Tensor) -> None:
        weight = self._codebook[0].embedding.weight
        count = weight.shape[0]
        if int(self.steps) == 0:
            # The first batches hold fewer vectors than there are entries: jitter keeps copies apart.
            weight.copy_(self._draw(vectors, count))
            self.usage.fill_(vectors.shape[0] / count)
            self.sums.copy_(weight * self.usage[:, None])
        self.steps += 1
        chosen = torch.bincount(indices, minlength=count).float()
        self.usage.mul_(_FOLLOW).add_(chosen, alpha=1 - _FOLLOW)
        self.sums.mul_(_FOLLOW).index_add_(0, indices, vectors, alpha=1 - _FOLLOW)
        weight.copy_(self.sums / self.usage.clamp(min=1e-6)[:, None])
        if int(self.steps) % _RESEED_EVERY == 0:
            dead = (self.usage < _DEAD_BELOW * vectors.shape[0] / count).nonzero()[:, 0]
            if dead.numel():
                weight[dead] = self._draw(vectors, dead.numel())
                self.usage[dead] = vectors.shape[0] / count
                self.sums[dead] = weight[dead] * self.usage[dead, None]

    @staticmethod
    def _draw(vectors: Tensor, count: int) -> Tensor:
        drawn = vectors[torch.randint(vectors.shape[0], (count,))]
        return drawn + 0.02 * vectors.std() * torch.randn_like(drawn)
