"""A model in two parts: the decoder, which makes states of tokens, and the head, which makes logits of states.

Logits of all tokens at once are by far the largest tensor of a run, and nobody needs them at once: whoever wants
logits gets them for a chunk of tokens. N tokens, D channels, V entries of the vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nas.compression.device import computing_in
from nas.compression.room import Room
from nas.families import family_named

_CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""Of float32 logits. Small ones stay in a CPU's caches; a GPU wants large products."""

_FEWEST_TOKENS = {"cuda": 1024}
"""Whatever the vocabulary: each chunk reads and writes the gradient of the whole head once."""


@dataclass(frozen=True)
class Head:
    """From states to logits: a product in `dtype`, then, in float32 (or more), what the family does to it.

    `weight_VD` may be a parameter; no gradient reaches it here (see chunked_loss).
    """

    weight_VD: torch.Tensor
    dtype: torch.dtype
    divisor: float = 1.0
    softcap: float | None = None

    @torch.no_grad()
    def logits(self, states_ND: torch.Tensor, room: Room | None = None) -> torch.Tensor:
        """logits_NV in float32, without a graph; in `room`, where they are of the product's dtype."""
        weight_VD = self.weight_VD.to(self.dtype)
        out = None if room is None else room.take((len(states_ND), len(weight_VD)), weight_VD)
        logits_NV = torch.mm(states_ND.to(self.dtype), weight_VD.t(), out=out)
        logits_NV = logits_NV.to(torch.promote_types(self.dtype, torch.float32))
        if self.divisor != 1.0:
            logits_NV.div_(self.divisor)
        if self.softcap is not None:
            logits_NV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_NV

    def back_to_product(self, gradient_NV: torch.Tensor, logits_NV: torch.Tensor) -> torch.Tensor:
        """The gradient by the product's outcome, given that by the logits; in place of the latter."""
        if self.softcap is not None:
            gradient_NV.mul_(1 - (logits_NV / self.softcap).square_())
        if self.divisor != 1.0:
            gradient_NV.div_(self.divisor)
        return gradient_NV

    def prepared(self) -> "Head":
        """The same with its weight in the dtype of the product, so that chunks need not convert it each."""
        return Head(self.weight_VD.detach().to(self.dtype), self.dtype, self.divisor, self.softcap)

    def chunks(self, num_tokens: int) -> Iterator[slice]:
        """All tokens, as many at once as keep their logits small."""
        kind = self.weight_VD.device.type
        size = max(_FEWEST_TOKENS.get(kind, 1), _CHUNK_BYTES.get(kind, 2**24) // (4 * len(self.weight_VD)))
        for start in range(0, num_tokens, size):
            yield slice(start, min(start + size, num_tokens))


class SplitModel:
    """A causal language model of one of our families, its products computed in `dtype`."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.model: Any = model
        self._dtype = dtype
        self._device = device
        config: Any = self.model.config
        family = family_named(config.model_type)
        self._divisor = 1.0 if family.logit_divisor is None else float(getattr(config, family.logit_divisor))
        self._softcap = None if family.logit_softcap is None else getattr(config, family.logit_softcap)

    @property
    def head(self) -> Head:
        return Head(self.model.get_output_embeddings().weight, self._dtype, self._divisor, self._softcap)

    def states(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        """states_BTD behind the final norm, with a graph where one is wanted."""
        with computing_in(self._dtype, self._device):
            states_BTD: torch.Tensor = self.model.get_decoder()(inputs_BT, use_cache=False).last_hidden_state
            return states_BTD

    @torch.no_grad()
    def logits(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        """logits_BTV of all tokens at once, in float32 and without a graph; for few tokens."""
        logits_NV = self.head.logits(self.states(inputs_BT).flatten(0, 1))
        return logits_NV.view(*inputs_BT.shape, -1)
