"""Trials and promotions that go on from the weights of what went before, and count on from its tokens."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from nas.jobs import Continuation, JobSpec, Promotion, Trained, Trial
from nas.pool import Update
from tests.contracts.conftest import assignment
from workers.attempt import AttemptFolder
from workers.tasks import run_job


def done(spec: JobSpec, folder: Path) -> tuple[Trained, Update]:
    """The result, and all that was told on the way."""
    attempt = AttemptFolder(assignment(spec, folder))
    attempt.path.mkdir(parents=True)
    result = run_job(attempt)
    assert isinstance(result, Trained)
    news = AttemptFolder(attempt.assignment).news()
    assert news is not None
    return result, news


def test_what_continues_begins_at_the_last_point_and_counts_on(trial: Callable[[int], Trial], tmp_path: Path) -> None:
    begun, told = done(trial(1280), tmp_path / "begun")
    longer = trial(512)
    so_far = Continuation(weights=begun.weights, tokens=1280, first_sequence=40, kept_layers=begun.kept_layers)
    extended, told_of_extended = done(longer.model_copy(update={"continues": so_far}), tmp_path / "extended")
    assert extended.kept_layers == begun.kept_layers
    assert extended.tokens == 512, "of this run alone"
    assert [point.tokens for point in told_of_extended.measurements] == [1280, 1408, 1536, 1664, 1792]
    assert told_of_extended.measurements[0] == told.measurements[-1], "the same weights have the same loss"
    assert told_of_extended.progress is not None
    assert (told_of_extended.progress.done, told_of_extended.progress.total) == (1792, 1792)

    promotion = Promotion(
        **{
            name: getattr(longer, name)
            for name in Promotion.model_fields
            if name in Trial.model_fields and name != "kind"
        },
        weights=begun.weights,
        kept_layers=begun.kept_layers,
        first_sequence=40,
        first_tokens=1280,
    )
    promoted, told_of_promoted = done(promotion, tmp_path / "promoted")
    assert promoted.tokens == 512
    assert told_of_promoted.measurements == told_of_extended.measurements
    ends = [load_file(each.weights) for each in (extended, promoted)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])

    elsewhere = so_far.model_copy(update={"first_sequence": 0})
    other, _ = done(longer.model_copy(update={"continues": elsewhere}), tmp_path / "elsewhere")
    assert any(not torch.equal(tensor, ends[0][name]) for name, tensor in load_file(other.weights).items())
