"""A teacher's distributions in few entries per token, and the losses against them.

Two ways. **sampled**: n draws from the whole distribution, as counts. The n draws of a token stand at equal distances
along its cumulative distribution, from a random start: each entry's expected share is its probability, as with
independent draws (RS-KD, arXiv 2503.16870), and it is never off by a whole draw, which lowers the variance.
**top_k**: the k largest probabilities, all else as one tail; biased, for comparison. N tokens, V entries of the
vocabulary, E entries kept of all tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nas.compression.losses import LossAndGradient
from nas.compression.room import Room


@dataclass(frozen=True)
class Sampled:
    """What was drawn for N tokens: `counts_N` entries of each, with their ids, in order, and how often each was drawn.

    `entropy_N` is that of the whole distribution, in nats, so that the loss can be told as a KL.
    """

    counts_N: torch.Tensor
    ids_E: torch.Tensor
    draws_E: torch.Tensor
    entropy_N: torch.Tensor


@torch.no_grad()
def draw(logits_NV: torch.Tensor, starts_N: NDArray[np.float64], num_draws: int) -> Sampled:
    """Draws from softmax(logits); `starts_N` are uniform in 0 to 1."""
    log_p_NV = logits_NV.log_softmax(-1)
    p_NV = log_p_NV.exp()
    entropy_N = -(p_NV * log_p_NV).sum(-1)
    # In float64: the sum of a large vocabulary's small probabilities would be lost in float32.
    cumulative_NV = p_NV.double().cumsum(-1)
    starts = torch.from_numpy(starts_N).to(logits_NV.device)[:, None]
    marks = (torch.arange(num_draws, device=logits_NV.device) + starts) / num_draws * cumulative_NV[:, -1:]
    drawn = torch.searchsorted(cumulative_NV, marks, right=True).clamp_(max=logits_NV.shape[-1] - 1)
    rows = torch.arange(len(drawn), device=drawn.device)[:, None] * logits_NV.shape[-1]
    keys_E, draws_E = torch.unique_consecutive((drawn + rows).flatten(), return_counts=True)
    counts_N = torch.bincount(keys_E // logits_NV.shape[-1], minlength=len(drawn))
    return Sampled(counts_N, keys_E % logits_NV.shape[-1], draws_E, entropy_N)


def expected_entries(logits_NV: torch.Tensor, num_draws: int) -> torch.Tensor:
    """How many different entries `draw` keeps of each token, in the mean: the sum of min(1, n p)."""
    return (num_draws * logits_NV.softmax(-1)).clamp_(max=1.0).sum(-1)


@torch.no_grad()
def sampled_loss(student_NV: torch.Tensor, targets: Sampled, num_draws: int, gradient_room: Room) -> LossAndGradient:
    """KL(teacher || student) of every token, estimated without bias, and its gradient q - (share drawn)."""
    log_q_NV = gradient_room.log_softmax(student_NV)
    rows_E = torch.repeat_interleave(torch.arange(len(student_NV), device=student_NV.device), targets.counts_N)
    shares_E = targets.draws_E.to(student_NV.dtype) / num_draws
    losses_N = -targets.entropy_N.to(student_NV.dtype)
    losses_N.index_add_(0, rows_E, log_q_NV[rows_E, targets.ids_E] * shares_E, alpha=-1)
    gradient_NV = log_q_NV.exp_()
    gradient_NV[rows_E, targets.ids_E] -= shares_E
    return losses_N, gradient_NV


@dataclass(frozen=True)
class TopK:
    """The `ids_NK` of the K largest probabilities and their logarithms, and that of all others together."""

    ids_NK: torch.Tensor
    log_p_NK: torch.Tensor
    log_tail_N: torch.Tensor


@torch.no_grad()
def largest(logits_NV: torch.Tensor, k: int) -> TopK:
    """Of softmax(logits), the k largest."""
    log_p_NV = logits_NV.log_softmax(-1)
    log_p_NK, ids_NK = log_p_NV.topk(k, dim=-1)
    return TopK(ids_NK, log_p_NK, log_p_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1))


@torch.no_grad()
def top_k_loss(student_NV: torch.Tensor, targets: TopK) -> LossAndGradient:
    """KL(teacher || student) with all but the teacher's k entries taken as one, and its gradient.

    The gradient is q - p at the k, and q (1 - p_tail / q_tail) elsewhere. Stored probabilities are rounded, so they are
    scaled to sum to 1.
    """
    log_q_NV = student_NV.log_softmax(-1)
    stored = torch.cat([targets.log_p_NK, targets.log_tail_N[:, None]], dim=-1).to(student_NV.dtype).log_softmax(-1)
    log_q_tail_N = log_q_NV.scatter(-1, targets.ids_NK, -torch.inf).logsumexp(-1)
    log_q = torch.cat([log_q_NV.gather(-1, targets.ids_NK), log_q_tail_N[:, None]], dim=-1)
    p, q = stored.exp(), log_q.exp()
    losses_N = torch.where(p > 0, p * (stored - log_q), 0.0).sum(-1)
    # As q - exp(log q + log of the ratio): of a student that is sure of itself the ratio alone overflows.
    log_ratio_N = torch.where(p[:, -1] > 0, stored[:, -1] - log_q_tail_N, -torch.inf)
    gradient_NV = (log_q_NV + log_ratio_N[:, None]).exp_().neg_().add_(log_q_NV.exp_())
    return losses_N, gradient_NV.scatter_(-1, targets.ids_NK, (q - p)[:, :-1])


# --- packed --------------------------------------------------------------------------------------------------


def entry_bytes(vocab_size: int, num_draws: int) -> int:
    """Of one packed entry of a sample: three where 18 bits hold its id and 6 its draws, else four of 24 and 8."""
    return 3 if vocab_size <= 1 << 18 and num_draws <= 1 << 6 else 4


def pack(ids_E: torch.Tensor, draws_E: torch.Tensor, size: int) -> torch.Tensor:
    """Ids and draws as bytes, (E, size) uint8, little-endian: the id, and above it the draws less one."""
    bits = 18 if size == 3 else 24
    packed = (ids_E.cpu().numpy() | (draws_E.cpu().numpy() - 1) << bits).astype("<u4")
    return torch.from_numpy(packed.view(np.uint8).reshape(-1, 4)[:, :size].copy())


def unpack(entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids_E and draws_E of packed entries, int64."""
    size = entries.shape[1]
    bits = 18 if size == 3 else 24
    whole = np.zeros((len(entries), 4), dtype=np.uint8)
    whole[:, :size] = entries.numpy()
    packed = whole.reshape(-1).view("<u4").astype(np.int64)
    return torch.from_numpy(packed & ((1 << bits) - 1)), torch.from_numpy((packed >> bits) + 1)
