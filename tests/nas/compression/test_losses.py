"""Every loss against sums written out by hand in float64, and its gradient against finite differences."""

import math
from collections.abc import Callable

import pytest
import torch

from nas.compression.losses import (
    LOGITS_LOSSES,
    among_top_k,
    cross_entropy_BT,
    forward_kl,
    forward_kl_with_gradient,
    language_modeling_with_gradient,
    with_gradient,
)
from nas.compression.room import Room
from nas.compression.teacher import logits_losses
from nas.distillation_spec import DistillationSpec, LogitLoss


def logits(seed: int, num_tokens: int = 6) -> torch.Tensor:
    return torch.randn(num_tokens, 7, generator=torch.Generator().manual_seed(seed)) * 3


def softmax_by_hand(row: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / math.fsum(exponentials) for value in exponentials]


def kl_by_hand(p: list[float], q: list[float]) -> float:
    return math.fsum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))


def jensen_shannon_by_hand(s: list[float], t: list[float]) -> float:
    p, q = softmax_by_hand(t), softmax_by_hand(s)
    middle = [(pi + qi) / 2 for pi, qi in zip(p, q, strict=True)]
    return (kl_by_hand(p, middle) + kl_by_hand(q, middle)) / 2


def cosine_by_hand(s: list[float], t: list[float]) -> float:
    p, q = softmax_by_hand(t), softmax_by_hand(s)
    product = math.fsum(pi * qi for pi, qi in zip(p, q, strict=True))
    return 1 - product / math.sqrt(math.fsum(pi * pi for pi in p) * math.fsum(qi * qi for qi in q))


def cross_entropy_by_hand(s: list[float], t: list[float]) -> float:
    return -math.fsum(pi * math.log(qi) for pi, qi in zip(softmax_by_hand(t), softmax_by_hand(s), strict=True))


BY_HAND: dict[LogitLoss, Callable[[list[float], list[float]], float]] = {
    "forward_kl": lambda s, t: kl_by_hand(softmax_by_hand(t), softmax_by_hand(s)),
    "reverse_kl": lambda s, t: kl_by_hand(softmax_by_hand(s), softmax_by_hand(t)),
    "jensen_shannon": jensen_shannon_by_hand,
    "mse": lambda s, t: math.fsum((si - ti) ** 2 for si, ti in zip(s, t, strict=True)) / len(s),
    "cosine": cosine_by_hand,
    "cross_entropy": cross_entropy_by_hand,
}


def test_every_loss_has_a_sum_by_hand() -> None:
    assert BY_HAND.keys() == LOGITS_LOSSES.keys()


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_a_loss_is_its_sum_by_hand(name: LogitLoss, temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    losses = logits_losses(DistillationSpec(logits=name, temperature=temperature))
    assert losses is not None
    found, _ = losses(student, teacher.clone())  # The teacher's may be overwritten.
    rows = zip(student.double() / temperature, teacher.double() / temperature, strict=True)
    expected = [BY_HAND[name](s.tolist(), t.tolist()) for s, t in rows]
    assert found.tolist() == pytest.approx(expected, rel=2e-5)
    exact, _ = losses(student.double(), teacher.double())
    assert exact.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_losses_differ_from_one_another(name: LogitLoss) -> None:
    """Swapped arguments, or one loss in another's place, would not pass for it."""
    found = LOGITS_LOSSES[name](logits(1), logits(2))
    for other, loss in LOGITS_LOSSES.items():
        if other != name:
            assert (loss(logits(1), logits(2)) - found).abs().max() > 1e-2


@pytest.mark.parametrize("name", LOGITS_LOSSES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 3])
def test_its_gradient_is_that_of_finite_differences(name: LogitLoss, temperature: float, top_k: int | None) -> None:
    losses = logits_losses(DistillationSpec(logits=name, temperature=temperature, top_k=top_k))
    assert losses is not None
    student, teacher = logits(1).double(), logits(2).double()
    _, gradient = losses(student, teacher.clone())
    gradient = gradient.clone()  # The next call may take its memory.
    step = 1e-6
    for entry in range(student.shape[1]):
        moved = torch.zeros_like(student)
        moved[:, entry] = step
        above, _ = losses(student + moved, teacher.clone())
        below, _ = losses(student - moved, teacher.clone())
        torch.testing.assert_close(gradient[:, entry], (above - below) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOGITS_LOSSES)
def test_gradcheck(name: LogitLoss) -> None:
    teacher = logits(2).double()
    student = logits(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOGITS_LOSSES[name](s, teacher), (student,))


def test_the_gradient_written_out_is_the_one_of_autograd() -> None:
    student, teacher = logits(1).double(), logits(2).double()
    for found, expected in zip(
        forward_kl_with_gradient(student, teacher.clone(), Room(), Room()),
        with_gradient(forward_kl, student, teacher),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_among_the_top_k_there_are_no_other_entries() -> None:
    student, teacher = logits(1).double(), logits(2).double()
    found = among_top_k(forward_kl, 3)(student, teacher)
    for row in range(len(student)):
        best = sorted(range(7), key=lambda v: -teacher[row, v].item())[:3]
        expected = BY_HAND["forward_kl"](student[row, best].tolist(), teacher[row, best].tolist())
        assert found[row].item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(among_top_k(forward_kl, 7)(student, teacher), forward_kl(student, teacher))


def test_language_modeling_is_torchs_own_cross_entropy() -> None:
    student, labels = logits(1).double().requires_grad_(), torch.tensor([0, 6, 3, 2, 2, 5])
    expected = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    (by_student,) = torch.autograd.grad(expected.sum(), student)
    losses, gradient = language_modeling_with_gradient(student.detach(), labels, Room())
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, by_student, rtol=1e-12, atol=1e-14)


def test_cross_entropy_is_minus_the_log_of_the_targets_probability() -> None:
    targets = torch.tensor([[0, 6, 3], [2, 2, 5]])
    found = cross_entropy_BT(logits(0).view(2, 3, 7), targets)
    for b in range(2):
        for t in range(3):
            probability = softmax_by_hand(logits(0).view(2, 3, 7)[b, t].tolist())[targets[b, t]]
            assert found[b, t].item() == pytest.approx(-math.log(probability), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in LOGITS_LOSSES if name != "cross_entropy"])
def test_a_student_equal_to_its_teacher_loses_nothing(name: LogitLoss) -> None:
    assert LOGITS_LOSSES[name](logits(3), logits(3)).abs().max() < 1e-6
