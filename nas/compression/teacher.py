"""The teacher's targets: today always live, computed again for every batch."""

import torch

from nas.compression.device import computing_in


class LiveTeacher:
    """Logits of a frozen model, computed when asked for, without a graph."""

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self._model = model.requires_grad_(False)
        self._dtype = dtype
        self._device = device

    @torch.no_grad()
    def __call__(self, inputs_BT: torch.Tensor) -> torch.Tensor:
        """inputs_BT -> logits_BTV"""
        return logits_of(self._model, inputs_BT, self._dtype, self._device)


def logits_of(
    model: torch.nn.Module, inputs_BT: torch.Tensor, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """logits_BTV of a model, its products computed in `dtype`."""
    with computing_in(dtype, device):
        logits_BTV: torch.Tensor = model(inputs_BT, use_cache=False).logits
        return logits_BTV
