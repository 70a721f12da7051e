"""The matrix products of a step, and nothing else: what no loop on this machine can be faster than."""

import statistics
import time

import torch

from benchmarks.distillation import setup
from nas.architecture import Architecture
from nas.families.llama import LLAMA


def seconds() -> float:
    """The median of several steps: the teacher's forward pass, and the student's forward and backward pass.

    Each matrix of the teacher is multiplied once, of the student three times. Attention's own products are left out.
    """
    tokens = setup.BATCH * setup.LENGTH
    teacher, student = (_matrices(setup.shape(each)) for each in (setup.TEACHER, setup.STUDENT))
    states = {size: torch.randn(tokens, size) for weight in (*teacher, *student) for size in weight.shape}
    times = []
    for _ in range(setup.WARM_UP + setup.STEPS):
        began = time.perf_counter()
        for weight in teacher:
            torch.mm(states[weight.shape[1]], weight.t())
        for weight in student:
            into, out_of = (states[size] for size in weight.shape)
            torch.mm(out_of, weight.t())
            torch.mm(into, weight)
            torch.mm(into.t(), out_of)
        times.append(time.perf_counter() - began)
    return statistics.median(times[setup.WARM_UP :])


def _matrices(shape: Architecture) -> list[torch.Tensor]:
    """Those that every token is multiplied with, the head among them."""
    names = {name for each in LLAMA.parameters if each.matrix for name, _ in each.tensors(shape)} | {"lm_head.weight"}
    return [torch.randn(size) for name, size in LLAMA.tensors(shape) if name in names]
