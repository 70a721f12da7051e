"""Block Influence: how far a layer, or a stretch of them, turns the residual stream (ShortGPT; P1, section 2.2)."""

from collections import deque

import torch

from nas.compression.importance.aggregation import CACHED_ENTRIES, exact_enough
from nas.compression.importance.exact_sum import ExactSum


class Turns:
    """Sums over tokens of 1 - cos(x[i], x[i + n]), for stretches of n layers from the i-th on.

    `states_BTD` are given in the order of the layers, first what enters the first; as many of one batch are held as
    the longest stretch needs.
    """

    def __init__(self, num_layers: int, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths
        self.sums = [[ExactSum.zeros() for _ in range(num_layers)] for _ in lengths]
        self.tokens = 0

    def begin(self, states_BTD: torch.Tensor) -> "Pass":
        """Follows one batch, of which this enters the first layer."""
        self.tokens += states_BTD.shape[0] * states_BTD.shape[1]
        return Pass(self, states_BTD)

    def table(self) -> ExactSum:
        """(layers, layers): in row `n - 1`, column `i` the sum for the stretch of `n` from `i` on, NaN without one."""
        num_layers = len(self.sums[0])
        table = ExactSum(torch.full((num_layers, num_layers), torch.nan, dtype=torch.float64))
        for length, sums in zip(self.lengths, self.sums, strict=True):
            for start in range(num_layers - length + 1):
                table.high[length - 1, start] = sums[start].high
                table.low[length - 1, start] = sums[start].low
        return table


class Pass:
    """One batch on its way through the layers."""

    def __init__(self, turns: Turns, states_BTD: torch.Tensor) -> None:
        self._turns = turns
        self._before: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=max(turns.lengths, default=0))
        self._enter(states_BTD)
        self._layer = 0

    def through(self, states_BTD: torch.Tensor) -> None:
        """What the next layer made of them."""
        states_BTD = exact_enough(states_BTD)
        norms_BT = torch.linalg.vector_norm(states_BTD, dim=-1)
        self._layer += 1
        for length, sums in zip(self._turns.lengths, self._turns.sums, strict=True):
            if length <= self._layer:
                earlier_BTD, earlier_norms_BT = self._before[-length]
                turned_BT = _turned(earlier_BTD, earlier_norms_BT, states_BTD, norms_BT)
                sums[self._layer - length].add_each(turned_BT.sum(dim=-1).cpu())
        self._before.append((states_BTD, norms_BT))

    def _enter(self, states_BTD: torch.Tensor) -> None:
        states_BTD = exact_enough(states_BTD)
        self._before.append((states_BTD, torch.linalg.vector_norm(states_BTD, dim=-1)))


def _turned(x_BTD: torch.Tensor, x_norm_BT: torch.Tensor, y_BTD: torch.Tensor, y_norm_BT: torch.Tensor) -> torch.Tensor:
    """1 - cos(x, y) at each token, (B, T) float64; 1 where one of them is zero.

    By the law of cosines, |x - y|^2 - (|x| - |y|)^2 over 2 |x| |y|: most layers hardly turn the stream, and 1 minus a
    cosine close to 1 would keep few digits.
    """
    apart_BT = torch.cat([_distances(x_TD, y_TD) for x_TD, y_TD in zip(x_BTD, y_BTD, strict=True)]).view_as(x_norm_BT)
    x_norm_BT, y_norm_BT = x_norm_BT.double(), y_norm_BT.double()
    product_BT = 2 * x_norm_BT * y_norm_BT
    turned_BT = (apart_BT.double().square() - (x_norm_BT - y_norm_BT).square()) / product_BT
    return torch.where(product_BT == 0, 1.0, turned_BT)


def _distances(x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor:
    """(T,): in pieces that the cache holds."""
    rows = max(1, CACHED_ENTRIES // x_TD.shape[-1]) if x_TD.device.type == "cpu" else len(x_TD)
    pieces = zip(x_TD.split(rows), y_TD.split(rows), strict=True)
    return torch.cat([torch.linalg.vector_norm(x_RD - y_RD, dim=-1) for x_RD, y_RD in pieces])
