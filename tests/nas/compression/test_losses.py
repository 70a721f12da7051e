"""Losses against sums written out by hand in float64, and their gradients against the closed form."""

import math

import pytest
import torch

from nas.compression.losses import cross_entropy_BT, forward_kl_BT


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(seed)) * 3


def softmax_by_hand(row: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def test_cross_entropy_is_minus_the_log_of_the_targets_probability() -> None:
    targets = torch.tensor([[0, 6, 3], [2, 2, 5]])
    found = cross_entropy_BT(logits(0), targets)
    for b in range(2):
        for t in range(3):
            probability = softmax_by_hand(logits(0)[b, t].tolist())[targets[b, t]]
            assert found[b, t].item() == pytest.approx(-math.log(probability), rel=1e-5)


def test_forward_kl_is_teacher_over_student() -> None:
    student, teacher = logits(1), logits(2)
    found = forward_kl_BT(student, teacher)
    for b in range(2):
        for t in range(3):
            p, q = softmax_by_hand(teacher[b, t].tolist()), softmax_by_hand(student[b, t].tolist())
            forward = sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))
            reverse = sum(qi * math.log(qi / pi) for pi, qi in zip(p, q, strict=True))
            assert found[b, t].item() == pytest.approx(forward, rel=1e-5)
            assert abs(forward - reverse) > 1e-2, "the direction must be told apart"


def test_gradient_of_forward_kl_is_student_minus_teacher_probability() -> None:
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    forward_kl_BT(student, teacher).sum().backward()
    assert student.grad is not None
    expected = student.detach().double().softmax(-1) - teacher.detach().double().softmax(-1)
    torch.testing.assert_close(student.grad.double(), expected, rtol=0, atol=1e-6)
    assert teacher.grad is None


def test_a_student_equal_to_its_teacher_loses_nothing() -> None:
    assert forward_kl_BT(logits(3), logits(3)).abs().max() < 1e-6


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = logits(1).bfloat16(), logits(2).bfloat16()
    assert forward_kl_BT(student, teacher).dtype == torch.float32
    assert torch.equal(forward_kl_BT(student, teacher), forward_kl_BT(student.float(), teacher.float()))
