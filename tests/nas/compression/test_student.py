"""The distillation of a student: its objective by hand, its precision, and what it refuses to record."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.checkpoint import load_model, own_tensors
from nas.compression.data import PackedTokens, write_token_file
from nas.compression.device import resolve_dtype
from nas.compression.evaluate import Evaluation
from nas.compression.head import SplitModel
from nas.compression.student import Distillation
from nas.compression.teacher import LiveTeacher
from nas.errors import TrainingDiverged
from nas.model_folder import inspect_model_folder
from nas.training_spec import TrainingSpec

CPU = torch.device("cpu")
SPEC = TrainingSpec(tokens=4 * 16, batch_size=4, peak_learning_rate=1e-2, warmup_steps=0, clip_norm=1e9, measurements=1)


@pytest.fixture
def distillation(tmp_path: Path, teacher_folder: Path, tokenizer: Tokenizer, text_file: Path) -> Distillation:
    write_token_file(tmp_path / "t.bin", iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    folder = inspect_model_folder(teacher_folder)
    data = PackedTokens(tmp_path / "t.bin", sequence_length=16)
    return Distillation(
        config=folder.config,
        teacher=LiveTeacher(SplitModel(load_model(folder, CPU), torch.float32, CPU)),
        teacher_shape=folder.architecture,
        data=data,
        validation=data.first(3),
        training=SPEC,
        until_tokens=64,
        first_sequence=8,
        seed=5,
        device=CPU,
        dtype=torch.float32,
    )


def shaken(teacher_folder: Path) -> dict[str, torch.Tensor]:
    """The teacher's weights, each a little off: a student that has something to learn."""
    generator = torch.Generator().manual_seed(2)
    weights = own_tensors(load_model(inspect_model_folder(teacher_folder), CPU))
    return {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


def run(
    distillation: Distillation, weights: dict[str, torch.Tensor], folder: Path
) -> tuple[dict[str, torch.Tensor], dict[int, Evaluation]]:
    seen: dict[int, Evaluation] = {}
    trained, tokens = distillation.run(
        weights,
        checkpoints=folder / "checkpoints",
        earlier_checkpoints=(),
        record=seen.__setitem__,
        progress=lambda _: None,
    )
    assert tokens == 64
    return trained, seen


def test_a_step_descends_the_forward_kl_to_the_teacher(
    distillation: Distillation, teacher_folder: Path, tmp_path: Path
) -> None:
    weights = shaken(teacher_folder)
    trained, seen = run(distillation, weights, tmp_path)

    model = load_model(inspect_model_folder(teacher_folder), CPU).requires_grad_(True)
    model.load_state_dict(weights, strict=False)
    batch = distillation.data.training_batch(8, 4, seed=5)
    with torch.no_grad():
        target = load_model(inspect_model_folder(teacher_folder), CPU)(batch.inputs_BT).logits.softmax(-1)
    student = model(batch.inputs_BT).logits.log_softmax(-1)
    kl = (target * (target.log() - student)).sum(-1).mean()
    kl.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        # AdamW's first step moves every entry by the rate against the sign of its gradient, after the decay.
        decay = 1 - 1e-2 * 0.1 if parameter.dim() == 2 else 1.0
        moved = (trained[name] - decay * weights[name]) / -1e-2
        clear = parameter.grad.abs() > 1e-5
        assert clear.float().mean() > 0.2, name
        torch.testing.assert_close(moved[clear], parameter.grad.sign()[clear], rtol=0, atol=5e-3)
    kl_before, kl_after = seen[0].kl_to_teacher, seen[64].kl_to_teacher
    assert kl_before is not None
    assert kl_after is not None
    assert kl_after < kl_before


def test_a_loss_that_is_not_finite_is_not_recorded(
    distillation: Distillation, teacher_folder: Path, tmp_path: Path
) -> None:
    weights = shaken(teacher_folder)
    weights["model.norm.weight"][:] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"the validation loss is nan at step 0"):
        run(distillation, weights, tmp_path)


@torch.no_grad()
def test_bfloat16_is_for_products_only(teacher_folder: Path) -> None:
    model = load_model(inspect_model_folder(teacher_folder), CPU)
    inputs = torch.arange(24).view(2, 12)
    exact, rounded = (SplitModel(model, dtype, CPU).logits(inputs) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(rounded.bfloat16().float(), rounded), "what the product rounds to"
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_auto_follows_the_device_and_a_wish_is_kept() -> None:
    native = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    assert resolve_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert resolve_dtype("bfloat16", CPU) == torch.bfloat16
    assert resolve_dtype("float32", CPU) == torch.float32
