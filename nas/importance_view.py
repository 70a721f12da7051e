"""What users see of a calibration's scores: curves that a page draws, small enough to send."""

from nas.border import Border

Curve = tuple[float | None, ...]
"""Values in order; None where nothing was measured."""

MOST_POINTS = 129
"""Of a sorted curve, evenly spaced along it, first and last among them."""


class ImportanceView(Border):
    """Scores of every axis, higher more important; what is compared is of one curve.

    `layers` in order. `stretches` have, for every number of layers that was tried to go together, what each such
    stretch is worth, by its first layer. `heads` and `experts` have one tuple for each layer, in order. `neurons` have
    one curve for each layer (with experts, the mean of theirs), and `channels` is one, all from high to low and thinned
    to MOST_POINTS; `num_neurons` and `num_channels` are how many there are.
    """

    layers: Curve
    stretches: dict[int, Curve]
    heads: tuple[Curve, ...]
    experts: tuple[Curve, ...]
    neurons: tuple[Curve, ...]
    num_neurons: int
    channels: Curve
    num_channels: int
    num_key_value_heads: int
    width: str
    depth: str


def places(num_units: int) -> tuple[int, ...]:
    """Which of so many sorted units a curve of them has points for: all, or MOST_POINTS of them, evenly spaced."""
    if num_units <= MOST_POINTS:
        return tuple(range(num_units))
    return tuple(round(point * (num_units - 1) / (MOST_POINTS - 1)) for point in range(MOST_POINTS))
