"""Scores as users see them: curves, thinned where there are too many units to draw."""

import torch

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.compression.scores import Scores
from nas.importance_view import Curve, ImportanceView, places


def view_of(scores: Scores, teacher: Architecture, spec: CalibrationSpec) -> ImportanceView:
    """The scores of a teacher, as `spec` derived them."""
    measured = [(n, row[: len(row) - n + 1]) for n, row in enumerate(scores.stretches, start=1)]
    neurons = scores.neurons.sort(dim=-1, descending=True).values
    return ImportanceView(
        layers=_curve(scores.layers),
        stretches={n: _curve(row) for n, row in measured if not row.isnan().all()},
        heads=tuple(_curve(row) for row in scores.heads),
        experts=tuple(_curve(row) for row in scores.experts),
        neurons=tuple(_thinned(row) for row in (neurons if neurons.dim() == 2 else neurons.mean(dim=1))),
        num_neurons=teacher.intermediate_size,
        channels=_thinned(scores.channels.sort(descending=True).values),
        num_channels=teacher.hidden_size,
        num_key_value_heads=teacher.num_key_value_heads,
        width=spec.width,
        depth=spec.depth,
    )


def _curve(values: torch.Tensor) -> Curve:
    return tuple(None if value != value else value for value in values.tolist())


def _thinned(values: torch.Tensor) -> Curve:
    """Those of its places."""
    return _curve(values[list(places(len(values)))])
