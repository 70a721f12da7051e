"""What a device has free and what was used of it, and how many layers of a model it holds."""

import os
import resource
import sys
from pathlib import Path

import torch

from nas.architecture import Architecture, sizes_of
from nas.cost import CostModel, Dtype

FREE_SHARE = 0.8
"""Of what is free, to be counted on: estimates are not exact, and others use memory too."""


def layers_that_fit(
    architecture: Architecture, dtype: Dtype, room: float, batch_size: int, context: int, *, eager: bool
) -> int:
    """With how many of its layers a model runs over batch_size x context tokens in `room` bytes, at least 2.

    All of them where there is room, or where there are no more than 2. `eager`: attention keeps all scores of a layer.
    """
    passing = _bytes_in_passing(architecture, batch_size, context, eager=eager)
    for num_layers in range(architecture.num_hidden_layers, 2, -1):
        shape = architecture.resized(num_hidden_layers=num_layers)
        costs, sizes = CostModel(shape), sizes_of(shape)
        kept = costs.weight_bytes(dtype) + costs.cache_bytes(dtype, batch_size, context + 1)
        if kept.at(sizes) + passing <= room:
            return num_layers
    return min(2, architecture.num_hidden_layers)


def free_bytes(device: torch.device) -> int:
    """What can be had on the device now; on a CPU, of the machine's memory and of this process's control group's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        found += [int(limit) - int(used)] if limit.isdigit() else []
    except OSError:
        pass  # Not on this system: what was found before is as near as one comes.
    return min(found)


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held: of a GPU, in tensors; on a CPU, in the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        # What getrusage says begins, on Linux, with what the program held that started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024


def _bytes_in_passing(architecture: Architecture, batch_size: int, context: int, *, eager: bool) -> int:
    """Of what one layer computes on its way, in float32 and with room to spare, and of the last token's logits."""
    per_token = architecture.num_experts_per_tok or 1
    heads = architecture.num_attention_heads * architecture.head_dim
    channels = 8 * architecture.hidden_size + 4 * heads + 4 * per_token * architecture.intermediate_size
    scores = 3 * architecture.num_attention_heads * context if eager else 0
    return 4 * batch_size * (context * (channels + scores) + 2 * architecture.vocab_size)
