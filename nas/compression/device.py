"""Where tensors live and which dtype products are computed in."""

from contextlib import AbstractContextManager

import torch

from nas.spec import ComputeDtype


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def resolve_dtype(requested: ComputeDtype, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: as requested, or, for `auto`, bfloat16 where the device has it natively.

    A CPU without native bfloat16 emulates it, at about a hundredth of float32's speed.
    """
    if requested != "auto":
        return torch.bfloat16 if requested == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16", False) else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """As specs and results have it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """Inside, matrix products run in `dtype`; weights, softmax and losses stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
