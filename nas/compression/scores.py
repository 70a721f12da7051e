"""Importance along every axis: what all methods of measuring it end in, and what every cut begins with."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Scores:
    """Importance, float64; higher is more important, and what is compared is of one unit.

    `layers` (layers,), `heads` (layers, heads), `neurons` (layers, neurons) or (layers, experts, neurons), `experts`
    (layers, experts), with none where the MLP is one, `channels` (hidden,). `stretches` (layers, layers) has in row
    `n - 1` and column `i` what the `n` layers from `i` on are worth together, NaN where that was not measured.
    """

    layers: torch.Tensor
    heads: torch.Tensor
    neurons: torch.Tensor
    experts: torch.Tensor
    channels: torch.Tensor
    stretches: torch.Tensor
