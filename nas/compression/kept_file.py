"""What stays of a teacher, in a file: where one attempt has chosen, the next goes on with the same choice."""

from pathlib import Path

import torch

from nas.border import Border
from nas.calibration import HeadResidual
from nas.compression.checkpoint import read_described, write_weights
from nas.compression.choose import Kept
from nas.errors import CheckpointError

_OF_LAYERS = ("heads", "groups", "neurons", "experts", "folded")


class _About(Border):
    """What of it is no tensor."""

    layers: tuple[int, ...]
    residual: HeadResidual


def save_kept(path: Path, kept: Kept) -> None:
    """One safetensors file, there whole or not at all."""
    tensors = {"channels": kept.channels}
    for axis in _OF_LAYERS:
        tensors |= {f"{axis}.{layer}": units for layer, units in enumerate(getattr(kept, axis))}
    about = _About(layers=kept.layers, residual=kept.residual)
    # Copies: safetensors writes no two tensors of one memory, and of a view's it would write all.
    copies = {name: units.clone(memory_format=torch.contiguous_format) for name, units in tensors.items()}
    write_weights(path, copies, {"about": about.model_dump_json()})


def load_kept(path: Path) -> Kept:
    """Raises CheckpointError for a file that is damaged or is something else."""
    tensors, metadata = read_described(path)
    try:
        about = _About.model_validate_json(metadata["about"])
        channels = tensors["channels"]
        of_layers = {axis: _of_layers(tensors, axis) for axis in _OF_LAYERS}
    except (KeyError, ValueError) as error:
        raise CheckpointError(path, f"does not say what stays of a teacher ({error})") from error
    return Kept(layers=about.layers, channels=channels, residual=about.residual, **of_layers)


def _of_layers(tensors: dict[str, torch.Tensor], axis: str) -> tuple[torch.Tensor, ...]:
    """Raises KeyError where one is missing before the last."""
    count = sum(name.startswith(f"{axis}.") for name in tensors)
    return tuple(tensors[f"{axis}.{layer}"] for layer in range(count))
