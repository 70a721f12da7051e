"""The process that looks at this machine's devices: `python -m workers.machine_report` prints a Machine as JSON."""

import os
import platform

import torch

from nas.compression.device import default_device, dtype_name, resolve_dtype
from workers.inspection import Device, Machine


def machine() -> Machine:
    """What torch finds here."""
    used = default_device()
    return Machine(
        torch_version=torch.__version__,
        devices=(*_gpus(), _cpu()),
        used=used.type,
        auto_dtype=dtype_name(resolve_dtype("auto", used)),
    )


def _gpus() -> list[Device]:
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        return [Device(kind="cuda", name=each.name, memory_bytes=each.total_memory) for each in found]
    if torch.backends.mps.is_available():
        return [Device(kind="mps", name="Apple GPU", memory_bytes=torch.mps.recommended_max_memory())]
    return []


def _cpu() -> Device:
    cores = os.cpu_count() or 1
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(kind="cpu", name=f"{cores} cores, {platform.machine()}", memory_bytes=memory_bytes)


if __name__ == "__main__":
    print(machine().model_dump_json())
