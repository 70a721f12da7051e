"""The validation loss against transformers' own loss on the same tokens."""

import pytest
import torch

from nas.compression.data import Batch
from nas.compression.evaluate import evaluate
from nas.compression.head import SplitModel
from nas.compression.teacher import LiveTeacher
from tests.nas.compression.small_llama import small_llama, tokens


def split(model: torch.nn.Module) -> SplitModel:
    return SplitModel(model, torch.float64, torch.device("cpu"))


@torch.no_grad()
def test_loss_equals_transformers_own() -> None:
    model, _ = small_llama(tied=False, biased=True)
    windows = tokens(5, 12)
    evaluation = evaluate(split(model), Batch(windows[:, :-1], windows[:, 1:]), micro_batch_size=2)
    expected = [model(window[None], labels=window[None]).loss.item() for window in windows]
    assert evaluation.loss_per_sequence.tolist() == pytest.approx(expected, rel=1e-5)
    assert evaluation.loss == pytest.approx(sum(expected) / 5, rel=1e-6)
    assert evaluation.kl_to_teacher is None


@torch.no_grad()
def test_kl_to_another_model_is_torchs_own() -> None:
    model, _ = small_llama(tied=False, biased=True)
    teacher, _ = small_llama(tied=False, biased=True, seed=9)
    windows = tokens(5, 12)
    evaluation = evaluate(
        split(model),
        Batch(windows[:, :-1], windows[:, 1:]),
        teacher=LiveTeacher(split(teacher)),
        micro_batch_size=2,
    )
    student_log, teacher_log = (m(windows[:, :-1]).logits.log_softmax(-1).flatten(0, 1) for m in (model, teacher))
    expected = torch.nn.functional.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean").item()
    assert evaluation.kl_to_teacher == pytest.approx(expected, rel=1e-5)
