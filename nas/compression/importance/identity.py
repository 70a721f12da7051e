"""What scores depend on: two measurements are the same only if all of it is the same."""

import hashlib
import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import Any

import nas
from nas.border import Border
from nas.calibration import Aggregation, DepthMethod, NeuronTap, WidthMethod


class Identity(Border):
    """Teacher, data, samples, method, code and kind of device; `shard` is (number, of how many), from 0.

    `lengths` are the numbers of layers that were tried to go together, or, `one_by_one`, how many went. Whatever only
    the choice depends on (aggregation over the batch, the head residual, protected layers save one by one) is not in
    it: one measurement serves all.
    """

    teacher_sha256: str
    config_sha256: str
    data_sha256: str
    sequence_length: int
    samples: int
    seed: int
    shard: tuple[int, int] = (0, 1)
    width: WidthMethod
    over_sequence: tuple[Aggregation, ...]
    neurons: tuple[NeuronTap, ...]
    depth: DepthMethod
    lengths: tuple[int, ...]
    one_by_one: bool
    protected: tuple[int, int]
    depth_samples: int | None
    questions_sha256: str | None
    device: str
    code: dict[str, str]

    def differences(self, other: "Identity") -> dict[str, tuple[Any, Any]]:
        """The fields that differ, with both values."""
        ours, theirs = self.model_dump(), other.model_dump()
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    def lacking(self, wanted: "Identity") -> dict[str, tuple[Any, Any]]:
        """As `differences` from what is wanted for a cut: more lengths do no harm, nor does another kind of device."""
        differing = self.differences(wanted)
        differing.pop("device", None)
        enough = max(wanted.lengths, default=0) <= max(self.lengths, default=0)
        if enough if self.one_by_one else set(wanted.lengths) <= set(self.lengths):
            differing.pop("lengths", None)
        return differing


_COMPUTES = (
    "architecture.py",
    "model_folder.py",
    "families/*.py",
    "compression/importance/*.py",
    *(f"compression/{name}.py" for name in ("checkpoint", "data", "kernels", "layerwise", "losses")),
)
"""The files below `nas` whose change may change scores."""


@cache
def code_identity() -> dict[str, str]:
    """Of the code that samples, loads, runs and sums, and of the libraries that it computes with."""
    folder = Path(nas.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _COMPUTES for path in folder.glob(pattern)):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    libraries = {name: importlib.metadata.version(name) for name in ("numpy", "torch", "transformers", "tokenizers")}
    return {"nas": digest.hexdigest(), **libraries}


def parse_identity(text: str) -> Identity:
    """Raises ValueError for what is no identity."""
    return Identity.model_validate(json.loads(text))
