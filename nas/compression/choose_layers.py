"""Which layers stay: the best ones, all but a stretch, or evenly spread ones."""

import math
from collections.abc import Sequence

import torch

from nas.architecture import Architecture
from nas.calibration import LayerChoice
from nas.compression.scores import Scores
from nas.errors import SpecError


def choose_layers(
    scores: Scores, teacher: Architecture, student: Architecture, sliding: Sequence[bool], choice: LayerChoice
) -> tuple[int, ...]:
    """Ascending positions of the layers that stay.

    Where some layers attend to a window and others do not, as many of each stay as the student has. Raises SpecError
    where what is protected, or the pattern of windows, leaves no choice that is allowed.
    """
    if student.num_hidden_layers == teacher.num_hidden_layers:
        return tuple(range(teacher.num_hidden_layers))
    if choice.contiguous:
        return _without_stretch(scores.stretches, teacher, student, sliding, choice)
    kept: list[int] = []
    for of_type, count in _types(teacher, student, sliding):
        kept += _evenly(of_type, count) if choice.uniform else _best(scores.layers, of_type, count, teacher, choice)
    return tuple(sorted(kept))


def _types(teacher: Architecture, student: Architecture, sliding: Sequence[bool]) -> list[tuple[list[int], int]]:
    """The layers of each type, and how many of them stay."""
    everything = range(teacher.num_hidden_layers)
    if all(sliding) or not any(sliding):
        return [(list(everything), student.num_hidden_layers)]
    in_window = [i for i in everything if sliding[i]]
    full = [i for i in everything if not sliding[i]]
    num_full = student.num_hidden_layers - student.num_sliding_layers
    return [(in_window, student.num_sliding_layers), (full, num_full)]


def _best(scores: torch.Tensor, layers: list[int], count: int, teacher: Architecture, choice: LayerChoice) -> list[int]:
    """The protected ones, then the highest scores; of equal ones the first."""
    protected = _protected(teacher, choice)
    if (always := len(protected & set(layers))) > count:
        raise _too_many_protected(choice, f"{count} of these {len(layers)} layers are to stay, and it keeps {always}")
    # What was never removed, where one layer was after another, is worth more than all that were.
    worth = {i: math.inf if scores[i].isnan() else scores[i].item() for i in layers}
    go = sum(i not in protected and worth[i] < math.inf for i in layers)
    if go < len(layers) - count:
        problem = f"is not what the scores were measured for, which tell of {len(layers) - go} or more of these layers"
        accepted = "scores that were measured with this number of layers in the space"
        raise SpecError("num_hidden_layers", count, problem, accepted)
    return sorted(layers, key=lambda i: (i not in protected, -worth[i], i))[:count]


def _evenly(layers: list[int], count: int) -> list[int]:
    """Evenly spaced, the first and the last among them; of a single one the first."""
    last, gaps = len(layers) - 1, max(1, count - 1)
    return [layers[(2 * i * last + gaps) // (2 * gaps)] for i in range(count)]


def _without_stretch(
    stretches: torch.Tensor, teacher: Architecture, student: Architecture, sliding: Sequence[bool], choice: LayerChoice
) -> tuple[int, ...]:
    """All but the stretch that is worth least; of equal ones the last goes."""
    everything = range(teacher.num_hidden_layers)
    length = teacher.num_hidden_layers - student.num_hidden_layers
    protected, types = _protected(teacher, choice), _types(teacher, student, sliding)
    allowed = []
    for start in range(student.num_hidden_layers + 1):
        stretch = set(range(start, start + length))
        keeps_types = all(len(set(of_type) - stretch) == count for of_type, count in types)
        if not stretch & protected and keeps_types:
            allowed.append(start)
    if not allowed and protected:
        raise _too_many_protected(choice, f"no {length} layers next to one another may go")
    if not allowed:
        problem = f"finds no {length} layers next to one another whose removal leaves each type of layer its share"
        raise SpecError("calibration.contiguous", True, problem, "false, or another number of layers")
    worth = {start: stretches[length - 1, start].item() for start in allowed}
    if any(value != value for value in worth.values()):
        problem = f"has no scores for {length} layers that go together"
        raise SpecError("calibration.contiguous", True, problem, "scores that were measured for this number of layers")
    start = min(allowed, key=lambda each: (worth[each], -each))
    return tuple(i for i in everything if not start <= i < start + length)


def _protected(teacher: Architecture, choice: LayerChoice) -> set[int]:
    num_layers = teacher.num_hidden_layers
    first = range(min(choice.protect_first, num_layers))
    return {*first, *range(max(0, num_layers - choice.protect_last), num_layers)}


def _too_many_protected(choice: LayerChoice, problem: str) -> SpecError:
    field = "calibration.protect_first_layers" if choice.protect_first else "calibration.protect_last_layers"
    value = f"{choice.protect_first} first and {choice.protect_last} last"
    return SpecError(field, value, f"leaves no choice: {problem}", "fewer protected layers, or a deeper student")
