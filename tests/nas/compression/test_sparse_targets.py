"""Samples of a teacher's distribution: their mean is the distribution, and losses against them those by hand."""

import math

import numpy as np
import pytest
import torch

from nas.compression.losses import forward_kl, with_gradient
from nas.compression.room import Room
from nas.compression.sparse_targets import (
    Sampled,
    draw,
    entry_bytes,
    expected_entries,
    largest,
    pack,
    sampled_loss,
    top_k_loss,
    unpack,
)

VOCAB, DRAWS = 60, 20


def logits(seed: int, num_tokens: int = 3) -> torch.Tensor:
    return torch.randn(num_tokens, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def shares(drawn: Sampled, num_tokens: int, num_draws: int = DRAWS) -> torch.Tensor:
    found = torch.zeros(num_tokens, VOCAB, dtype=torch.float64)
    rows = torch.repeat_interleave(torch.arange(num_tokens), drawn.counts_N)
    found[rows, drawn.ids_E] = drawn.draws_E.double() / num_draws
    return found


def test_the_mean_of_many_samples_is_the_distribution() -> None:
    """Each entry's within five standard errors of its probability, which 180 entries are together but for 1 in 10^4.

    An entry is drawn floor(n p) times, or once more with the chance of what is left of n p.
    """
    random, repetitions = np.random.default_rng(0), 4000
    teacher = logits(0)
    mean = torch.stack([shares(draw(teacher, random.random(3), DRAWS), 3) for _ in range(repetitions)]).mean(0)
    chance = (DRAWS * teacher.softmax(-1)).frac()
    error = (chance * (1 - chance) / repetitions).sqrt() / DRAWS
    off, rare = (mean - teacher.softmax(-1)).abs(), repetitions * chance < 20
    assert (off <= 5 * error)[~rare].all()
    assert (off <= 20 / repetitions / DRAWS)[rare].all(), "too rare for a bell curve: some few draws in all"
    assert (~rare).sum() > 100
    assert error.max() < 1e-3, "and that is not for want of precision"


def test_a_share_is_never_off_by_a_draw() -> None:
    """What independent draws cannot promise; their variance is p (1 - p) / n, here it is less."""
    random, teacher = np.random.default_rng(1), logits(0)
    for _ in range(50):
        off = shares(draw(teacher, random.random(3), DRAWS), 3) - teacher.softmax(-1)
        assert off.abs().max() < 1 / DRAWS


def test_the_gradient_is_unbiased() -> None:
    random, repetitions = np.random.default_rng(2), 4000
    teacher, student = logits(0), logits(5)
    _, expected = with_gradient(forward_kl, student, teacher)
    gradients, losses = [], []
    for _ in range(repetitions):
        loss, gradient = sampled_loss(student, draw(teacher, random.random(3), DRAWS), DRAWS, Room())
        gradients.append(gradient)
        losses.append(loss)
    for found, wanted in ((torch.stack(gradients), expected), (torch.stack(losses), forward_kl(student, teacher))):
        error = found.std(0) / math.sqrt(repetitions)
        assert ((found.mean(0) - wanted).abs() <= 5 * error + 1e-12).all()


def test_the_top_k_alone_are_biased_and_their_tail_mends_only_the_sum() -> None:
    teacher, student = logits(0), logits(5)
    _, expected = with_gradient(forward_kl, student, teacher)
    _, found = top_k_loss(student, largest(teacher, 10))
    assert (found - expected).abs().max() > 1e-3
    assert found.sum(-1).abs().max() < 1e-12, "as every gradient by logits sums to nothing"


def test_the_expected_number_of_entries_is_their_mean() -> None:
    random, teacher = np.random.default_rng(3), logits(0)
    counts = torch.stack([draw(teacher, random.random(3), DRAWS).counts_N for _ in range(2000)]).double()
    error = counts.std(0) / math.sqrt(2000)
    assert ((counts.mean(0) - expected_entries(teacher, DRAWS)).abs() <= 5 * error + 1e-12).all()


def test_all_of_the_vocabulary_is_the_exact_loss() -> None:
    teacher, student = logits(0), logits(5)
    for found, expected in zip(
        top_k_loss(student, largest(teacher, VOCAB)), with_gradient(forward_kl, student, teacher), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1, 10, 59])
def test_the_loss_on_top_k_and_tail_is_that_by_hand(k: int) -> None:
    teacher, student = logits(0), logits(5)
    losses, gradient = top_k_loss(student, largest(teacher, k))

    def by_hand(z: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(3, dtype=torch.float64)
        for row in range(3):
            p, q = teacher[row].softmax(-1), z[row].softmax(-1)
            best = sorted(range(VOCAB), key=lambda v: -p[v].item())
            of_best = sum(p[v] * (p[v] / q[v]).log() for v in best[:k])
            p_tail, q_tail = p[best[k:]].sum(), q[best[k:]].sum()
            total[row] = of_best + p_tail * (p_tail / q_tail).log()
        return total

    z = student.clone().requires_grad_()
    expected = by_hand(z)
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-10, atol=0)
    (wanted,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("vocab_size", "num_draws", "size"), [(1 << 18, 64, 3), (1 << 18, 65, 4), (300_000, 50, 4)])
def test_entries_are_packed_and_found_again(vocab_size: int, num_draws: int, size: int) -> None:
    assert entry_bytes(vocab_size, num_draws) == size
    ids = torch.tensor([0, 1, 255, 256, 65_535, 65_536, vocab_size - 1])
    draws = torch.tensor([1, 2, num_draws, 1, num_draws, 7, num_draws])
    packed = pack(ids, draws, size)
    assert packed.shape == (7, size)
    found = unpack(packed)
    assert torch.equal(found[0], ids)
    assert torch.equal(found[1], draws)


def test_small_probabilities_of_a_large_vocabulary_are_not_lost() -> None:
    """One entry has half of it all, a million others share the rest: half of the draws fall there, all over them."""
    teacher = torch.zeros(1, 1_000_001)
    teacher[0, 0] = math.log(1_000_000)
    drawn = draw(teacher, np.array([0.3]), 100)
    assert drawn.draws_E[drawn.ids_E == 0].item() == 50
    others = drawn.ids_E[drawn.ids_E > 0].double()
    assert len(others) == 50
    assert (others.diff() - 20_000).abs().max() < 100, "evenly, up to what float32 probabilities are off"


@pytest.mark.parametrize("sure_of", [20.0, 95.0, 110.0, 500.0])
def test_a_student_that_is_sure_of_itself_has_a_gradient(sure_of: float) -> None:
    """In float32 as in float64, where nothing overflows."""
    teacher, student = torch.zeros(1, VOCAB), torch.zeros(1, VOCAB)
    teacher[0, 0], student[0, 0] = 5.0, sure_of
    loss, gradient = top_k_loss(student, largest(teacher, 1))
    exact, expected = top_k_loss(student.double(), largest(teacher.double(), 1))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)
    assert gradient.isfinite().all()
    assert gradient.sum().abs() < 1e-5
