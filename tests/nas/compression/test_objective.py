"""Head and loss in chunks, and all terms together, against the paper's formula written out over whole logits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nas.compression import head
from nas.compression.chunked_loss import chunked_loss
from nas.compression.data import Batch
from nas.compression.gradients import accumulate
from nas.compression.head import Head, SplitModel
from nas.compression.hidden_states import HiddenStates, Projection, listening, normalized
from nas.compression.losses import forward_kl_with_gradient
from nas.compression.objective import DistillationObjective
from nas.compression.room import Room
from nas.compression.teacher import LiveTeacher
from nas.distillation_spec import DistillationSpec
from nas.families import FAMILIES
from tests.nas.compression.small_llama import small_llama, tokens
from tests.nas.families.small import ALL, Variant, built

CPU = torch.device("cpu")
SPECS = [
    DistillationSpec(),
    DistillationSpec(logits="reverse_kl", language_modeling=0.5, temperature=2.0),
    DistillationSpec(logits="none", language_modeling=1.0),
    DistillationSpec(hidden_states=("embedding", "block_output", "mlp_input"), hidden_layers=((2, 0), (-3, -3))),
    DistillationSpec(logits="cosine", language_modeling=1.0, hidden_states=("block_output",), hidden_loss="mse"),
    DistillationSpec(hidden_states=("embedding",), hidden_weight=0.3),
]


def small_chunks(monkeypatch: pytest.MonkeyPatch, num_tokens: int, vocab_size: int) -> None:
    monkeypatch.setitem(head._CHUNK_BYTES, "cpu", 4 * vocab_size * num_tokens)


def batch_of(num_sequences: int, length: int) -> Batch:
    windows = tokens(num_sequences, length + 1)
    return Batch(windows[:, :-1], windows[:, 1:])


# --- chunks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_tokens", [1, 4, 7, 23, 100])
@pytest.mark.parametrize(("divisor", "softcap"), [(1.0, None), (8.0, None), (1.0, 2.5), (2.0, 1.5)])
def test_chunks_change_nothing(
    num_tokens: int, divisor: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(23, 5, generator=generator).requires_grad_()
    weight = torch.randn(11, 5, generator=generator).requires_grad_()
    teacher = torch.randn(23, 11, generator=generator)
    small_chunks(monkeypatch, num_tokens, 11)
    given = Head(weight, torch.float32, divisor, softcap)
    loss = chunked_loss(
        states, given, lambda z, rows: forward_kl_with_gradient(z, teacher[rows].clone(), Room(), Room())
    )
    found = torch.autograd.grad(loss * 3, (states, weight))

    whole_states, whole_weight = (each.detach().double().requires_grad_() for each in (states, weight))
    logits = whole_states @ whole_weight.T / divisor
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_p, log_q = teacher.double().log_softmax(-1), logits.log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_q)).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for one, other in zip(found, torch.autograd.grad(expected * 3, (whole_states, whole_weight)), strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * scale)


def test_its_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gradcheck would, which goes backward more than once: a chunked loss can do so once."""
    small_chunks(monkeypatch, 2, 6)
    generator = torch.Generator().manual_seed(0)
    states, weight, teacher = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (6, 3), (5, 6))
    )

    def loss(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        given = Head(weight, torch.float64, 2.0, 3.0)
        return chunked_loss(
            states, given, lambda z, rows: forward_kl_with_gradient(z, teacher[rows].clone(), Room(), Room())
        )

    for given in (states, weight):
        found = torch.autograd.grad(loss(states.requires_grad_(), weight.requires_grad_()), given)[0].flatten()
        with torch.no_grad():
            entries, step = given.view(-1), 1e-6
            for entry in range(len(entries)):
                before = entries[entry].item()
                entries[entry] = before + step
                above = loss(states, weight).item()
                entries[entry] = before - step
                below = loss(states, weight).item()
                entries[entry] = before
                assert found[entry].item() == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-8)


def test_no_tensor_of_all_logits_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the student's nor the teacher's, forward or backward: every tensor that torch makes is looked at."""
    teacher, _ = small_llama(tied=False, biased=False, seed=1)
    student, _ = small_llama(tied=True, biased=False, seed=2)
    small_chunks(monkeypatch, 8, 40)
    batch = batch_of(16, 32)
    largest = 0

    class Watch(TorchDispatchMode):  # type: ignore[misc, no-any-unimported, unused-ignore]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for each in out if isinstance(out, tuple | list) else [out]:
                if isinstance(each, torch.Tensor) and 40 in each.shape:
                    largest = max(largest, each.numel())
            return out

    objective = DistillationObjective(
        split(student), LiveTeacher(split(teacher)), DistillationSpec(language_modeling=1.0), None
    )
    with Watch():  # type: ignore[no-untyped-call]
        accumulate(objective, batch, 16, 512, list(student.parameters()))
    assert largest == 40 * 24, "the head's weight; all logits would be 512 x 40"


# --- all terms -----------------------------------------------------------------------------------------------


def split(model: torch.nn.Module, dtype: torch.dtype = torch.float64) -> SplitModel:
    return SplitModel(model, dtype, CPU)


def students(spec: DistillationSpec) -> tuple[Any, Any, HiddenStates | None, list[torch.nn.Parameter]]:
    teacher, shape = small_llama(tied=False, biased=True, seed=3)
    student, _ = small_llama(tied=True, biased=False, seed=4)
    hidden = None
    if spec.named_terms:
        projection = Projection(shape.hidden_size, shape.hidden_size, seed=0).double()
        torch.nn.init.normal_(projection.weight, generator=torch.Generator().manual_seed(0))
        pairs = spec.layer_pairs(4, 4)
        hidden = HiddenStates(spec.named_terms, pairs, spec.hidden_loss, projection)
    parameters = [*student.parameters(), *(hidden.projection.parameters() if hidden else ())]
    return teacher, student, hidden, parameters


def by_formula(spec: DistillationSpec, teacher: Any, student: Any, hidden: HiddenStates | None, batch: Batch) -> Any:
    """L = w L_CLM + L_logits + alpha L_is over whole logits and transformers' own hidden states."""
    with torch.no_grad():
        of_teacher = teacher(batch.inputs_BT, output_hidden_states=True, use_cache=False)
    of_student = student(batch.inputs_BT, output_hidden_states=True, use_cache=False)
    z, t = (each.logits.flatten(0, 1) / spec.temperature for each in (of_student, of_teacher))
    p, q = t.softmax(-1), z.softmax(-1)
    on_logits = {
        "forward_kl": lambda: (p * (p.log() - q.log())).sum(),
        "reverse_kl": lambda: (q * (q.log() - p.log())).sum(),
        "cosine": lambda: (1 - F.cosine_similarity(p, q, dim=-1)).sum(),
        "none": lambda: z.sum() * 0,
    }[spec.logits]()  # type: ignore[no-untyped-call]
    labels = batch.targets_BT.flatten()
    loss = on_logits + spec.language_modeling * F.cross_entropy(
        of_student.logits.flatten(0, 1), labels, reduction="sum"
    )
    if hidden is None:
        return loss
    on_states = z.sum() * 0
    for term in spec.named_terms:
        for at_teacher, at_student in [(-1, -1)] if term == "embedding" else spec.layer_pairs(4, 4):
            h_t, h_s = (
                _state(model, out, term, layer)
                for model, out, layer in ((teacher, of_teacher, at_teacher), (student, of_student, at_student))
            )
            h_s = hidden.projection(h_s / h_s.square().mean(-1, keepdim=True).add(1e-6).sqrt())
            h_t = h_t / h_t.square().mean(-1, keepdim=True).add(1e-6).sqrt()
            if spec.hidden_loss == "mse":
                on_states = on_states + (h_s - h_t).square().mean(-1).sum()
            else:
                on_states = on_states + (1 - F.cosine_similarity(h_s, h_t, dim=-1)).sum()
    alpha = (on_logits / on_states).detach() if spec.hidden_weight is None else spec.hidden_weight
    return loss + alpha * on_states


def _state(model: Any, out: Any, term: str, layer: int) -> torch.Tensor:
    """From what transformers returns: entry 0 is the embedding, i + 1 what leaves layer i, the last one normed."""
    if term == "embedding":
        return out.hidden_states[0]  # type: ignore[no-any-return]
    if term == "block_output":
        assert layer < 3, "behind the last layer transformers' own are normed"
        return out.hidden_states[layer + 1]  # type: ignore[no-any-return]
    block = model.model.layers[layer]
    attended = block.self_attn(
        block.input_layernorm(out.hidden_states[layer]),
        position_embeddings=model.model.rotary_emb(out.hidden_states[0], torch.arange(out.logits.shape[1])[None]),
        attention_mask=None,
    )[0]
    return block.post_attention_layernorm(out.hidden_states[layer] + attended)  # type: ignore[no-any-return]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.logits}-{spec.hidden_states}")
@pytest.mark.parametrize("micro_batch_size", [6, 4, 1])
def test_the_gradient_is_that_of_the_formula(
    spec: DistillationSpec, micro_batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch, 5, 40)
    teacher, student, hidden, parameters = students(spec)
    batch = batch_of(6, 9)
    expected = by_formula(spec, teacher, student, hidden, batch) / 54
    gradients: Any = torch.autograd.grad(expected, parameters, allow_unused=True)
    objective = DistillationObjective(split(student), LiveTeacher(split(teacher), spec), spec, hidden)
    found = accumulate(objective, batch, micro_batch_size, 54, parameters)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-6 * gradient.abs().max().item())


def test_hidden_states_in_float32_follow_the_stream() -> None:
    model, _ = small_llama(tied=False, biased=False)
    model.float()
    inputs = tokens(2, 6)
    with listening(split(model, torch.float32), [("embedding", 0), ("block_output", 1)]) as heard:
        split(model, torch.float32).states(inputs)
    out = model(inputs, output_hidden_states=True)
    assert torch.equal(heard["embedding", 0], out.hidden_states[0].flatten(0, 1))
    assert torch.equal(heard["block_output", 1], out.hidden_states[2].flatten(0, 1))
    assert normalized(heard["embedding", 0]).square().mean(-1).sub(1).abs().max() < 1e-4


def test_between_equal_sizes_a_projection_begins_as_none() -> None:
    states = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Projection(6, 6, seed=0)(states), states)
    assert torch.equal(Projection(6, 8, seed=3).weight, Projection(6, 8, seed=3).weight)
    assert not torch.equal(Projection(6, 8, seed=3).weight, Projection(6, 8, seed=4).weight)


# --- families ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ALL, ids=str)
@torch.no_grad()
def test_decoder_and_head_are_transformers_own_model(variant: Variant) -> None:
    model = built(variant.config)
    inputs = torch.arange(24).view(2, 12) % variant.config["vocab_size"]
    expected = model(inputs, use_cache=False).logits
    torch.testing.assert_close(split(model).logits(inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model_type", FAMILIES)
@torch.no_grad()
def test_hidden_states_are_heard_in_every_family(model_type: str) -> None:
    variant = next(each for each in ALL if each.family is FAMILIES[model_type])
    model = built(variant.config)
    inputs = torch.arange(24).view(2, 12) % variant.config["vocab_size"]
    last = variant.architecture.num_hidden_layers - 1
    with listening(split(model), [("embedding", 0), ("block_output", 0), ("mlp_input", last)]) as heard:
        split(model).states(inputs)
    hidden_states = model(inputs, use_cache=False, output_hidden_states=True).hidden_states
    torch.testing.assert_close(heard["embedding", 0].view_as(hidden_states[0]), hidden_states[0])
    torch.testing.assert_close(heard["block_output", 0].view_as(hidden_states[1]), hidden_states[1])
    assert heard["mlp_input", last].shape == (24, variant.architecture.hidden_size)


# --- bfloat16 ------------------------------------------------------------------------------------------------


def test_products_in_bfloat16_give_about_the_gradient_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums stay float32: many chunks are no further off than one."""
    generator = torch.Generator().manual_seed(0)
    states, weight, teacher = (torch.randn(shape, generator=generator) for shape in ((300, 32), (64, 32), (300, 64)))
    states, weight = states.requires_grad_(), (weight * 0.3).requires_grad_()

    def gradients(dtype: torch.dtype, at_once: int) -> tuple[torch.Tensor, ...]:
        small_chunks(monkeypatch, at_once, 64)
        loss = chunked_loss(
            states,
            Head(weight, dtype),
            lambda z, rows: forward_kl_with_gradient(z, teacher[rows].clone(), Room(), Room()),
        )
        assert loss.dtype == torch.float32
        return torch.autograd.grad(loss, (states, weight))

    exact = gradients(torch.float32, 300)
    for at_once in (300, 7):
        for found, expected in zip(gradients(torch.bfloat16, at_once), exact, strict=True):
            assert found.dtype == torch.float32
            assert 0 < (found - expected).norm() < 0.01 * expected.norm()
