"""Memory for tensors of the size of a chunk's logits, asked for once and used chunk after chunk."""

import math
from collections.abc import Sequence

import torch


class Room:
    """Takes one tensor at a time: the next one overwrites it.

    What an allocator gives afresh has to be mapped page by page at its first use, which for tensors of this size takes
    several times as long as a softmax over them.
    """

    def __init__(self) -> None:
        self._held: torch.Tensor | None = None

    def take(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """A tensor of this shape, of the dtype and on the device of `like`; what is in it is left from before."""
        size, held = math.prod(shape), self._held
        if held is None or held.numel() < size or held.dtype != like.dtype or held.device != like.device:
            held = self._held = torch.empty(size, dtype=like.dtype, device=like.device)
        return held[:size].view(*shape)

    def log_softmax(self, logits_NV: torch.Tensor) -> torch.Tensor:
        """Over the vocabulary; no graph is kept."""
        into = self.take(logits_NV.shape, logits_NV)
        return torch.log_softmax(logits_NV, -1, out=into)
