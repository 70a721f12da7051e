"""The picture of a shape: a student against its teacher, as inline SVG of 120 x 24 pixels."""

from markupsafe import Markup

from nas.architecture import Architecture

WIDTH, HEIGHT = 120.0, 24.0
_BARS = (("hidden_size", 13.8), ("intermediate_size", 17.8), ("num_attention_heads", 21.8))
"""Axes, and where the middles of their bars are."""


def text_alternative(student: Architecture, teacher: Architecture) -> str:
    """As in `32 of 32 layers, hidden 4096 of 6144, ffn 16384 of 24576, 48 of 48 heads`."""
    return (
        f"{student.num_hidden_layers} of {teacher.num_hidden_layers} layers, "
        f"hidden {student.hidden_size} of {teacher.hidden_size}, "
        f"ffn {student.intermediate_size} of {teacher.intermediate_size}, "
        f"{student.num_attention_heads} of {teacher.num_attention_heads} heads"
    )


def glyph(student: Architecture, teacher: Architecture) -> Markup:
    """The teacher's layers as a row of cells, filled as far as the student's count goes, over bars of its widths.

    How many layers stay is known, not which: the filled cells are the first ones.
    """
    layers, kept = teacher.num_hidden_layers, student.num_hidden_layers
    pitch = WIDTH / layers
    gap = min(1.5, 0.25 * pitch)
    width, inner = pitch - gap, max(pitch - gap - 1, 0.2)
    # Filled cells are strokes as thick as they are high, hollow ones are drawn inside their border.
    filled = f"M{gap / 2:.4g} 5" + f"m{gap:.4g} 0".join([f"h{width:.4g}"] * kept)
    hollow = f"M{kept * pitch + gap / 2 + 0.5:.4g} .5" + f"m{pitch:.4g} 0".join(
        [f"h{inner:.4g}v9h-{inner:.4g}z"] * (layers - kept)
    )
    bars = "".join(
        f'<path class="track" d="M0 {y}h{WIDTH:g}"/><path class="bar" d="M0 {y}h{length:.4g}"/>'
        for axis, y in _BARS
        for length in (WIDTH * getattr(student, axis) / getattr(teacher, axis),)
    )
    return Markup(
        f'<svg class="glyph" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}" role="img">'
        f"<title>{text_alternative(student, teacher)}</title>"
        f'<path class="filled" d="{filled}"/>'
        + (f'<path class="hollow" d="{hollow}"/>' if kept < layers else "")
        + f"{bars}</svg>"
    )
