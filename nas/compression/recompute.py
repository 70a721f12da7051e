"""Gradient checkpointing: memory for time, with the same gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def layers_recomputed(model: torch.nn.Module) -> Iterator[None]:
    """Inside, a forward pass keeps of each decoder layer what enters it; the backward pass computes the rest again.

    transformers would do so in training mode only, which turns dropout on. Hooks on what lies within a layer are called
    in both passes, hooks on the layer itself in the first.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        # Nothing is random in evaluation mode, so there is no state of random numbers to put back.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # The class's own is there again.
