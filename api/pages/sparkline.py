"""The curve of a trial in a table's cell, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 72.0, 22.0
_MARGIN = 2.0


@dataclass(frozen=True)
class Scale:
    """What all curves of a table are drawn on, so that they compare: tokens from 0, and losses, both ends included."""

    most_tokens: int
    lowest_loss: float
    highest_loss: float


def common_scale(curves: Sequence[Sequence[tuple[int, float]]], *, least_tokens: int) -> Scale:
    """The scale that holds all of `curves`, pairs of tokens and loss, and at least `least_tokens`."""
    points = [point for curve in curves for point in curve if math.isfinite(point[1])]
    return Scale(
        most_tokens=max([least_tokens, 1, *(tokens for tokens, _ in points)]),
        lowest_loss=min((loss for _, loss in points), default=0.0),
        highest_loss=max((loss for _, loss in points), default=1.0),
    )


def sparkline(curve: Sequence[tuple[int, float]], scale: Scale, colour: str | None) -> Markup:
    """The curve with a dot at its end, grey without a colour; nothing for an empty one."""
    span = scale.highest_loss - scale.lowest_loss or 1.0
    places = [
        (
            _MARGIN + (WIDTH - 2 * _MARGIN) * tokens / scale.most_tokens,
            _MARGIN + (HEIGHT - 2 * _MARGIN) * (scale.highest_loss - loss) / span,
        )
        for tokens, loss in curve
        if math.isfinite(loss)
    ]
    if not places:
        return Markup("")
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    paint = f' color="{colour}"' if colour else ""
    return Markup(
        f'<svg class="sparkline" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}" role="img"'
        f'{paint}><title>loss {curve[0][1]:.3f} to {curve[-1][1]:.3f}</title><polyline points="{line}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/></svg>'
    )
