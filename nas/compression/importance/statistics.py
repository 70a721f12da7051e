"""What a calibration measured, before it is one score for each unit: sums that merge, and know their origin."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import read_described, read_weights, write_weights
from nas.compression.importance.aggregation import Moments
from nas.compression.importance.exact_sum import ExactSum
from nas.compression.importance.identity import Identity, parse_identity
from nas.compression.importance.weights import empty_scores, random_scores
from nas.compression.scores import Scores
from nas.errors import CheckpointError, SpecError

_MOMENT_PARTS = ("first.high", "first.low", "second.high", "second.low")


@dataclass(frozen=True)
class Statistics:
    """Of one calibration, or of one shard of it.

    `moments` has, for `heads.AGGREGATION`, `neurons.TAP.AGGREGATION`, `experts.AGGREGATION` (layers, units...) and
    for `channels.AGGREGATION` (norms, hidden). `damage` has in row `n - 1` and column `i` what the removal of `n`
    layers from the `i`-th on did, NaN where that was not tried, to be divided by `tried`. `order` ranks layers by
    when they were removed one after another, NaN for those that never were. `weights` are scores of weights alone.
    """

    identity: Identity
    architecture: Architecture
    sequences: int
    moments: dict[str, Moments]
    damage: ExactSum
    tried: ExactSum
    order: torch.Tensor
    weights: dict[str, torch.Tensor]

    def scores(self, spec: CalibrationSpec) -> Scores:
        """One score for each unit, as `spec` says. Raises SpecError for what was not measured.

        Raises CheckpointError for statistics that are not of this architecture.
        """
        self._check(spec)
        shape, seed = self.architecture, self.identity.seed
        width = vars(random_scores(shape, seed)) if spec.width == "random" else self._width(spec)
        stretches = self.damage.value / self.tried.value
        if spec.depth == "magnitude":
            layers = self.weights["layers"]
        elif spec.depth in ("random", "uniform"):
            layers = random_scores(shape, seed).layers
        else:
            layers = self.order if spec.one_by_one else stretches[0]
        scores = Scores(**{**width, "layers": layers, "stretches": stretches})
        for axis, values in vars(empty_scores(shape)).items():
            if getattr(scores, axis).shape != values.shape:
                found, expected = tuple(getattr(scores, axis).shape), tuple(values.shape)
                raise CheckpointError("the file of scores", f"has {axis} as {found} where {expected} belongs")
        return scores

    def _width(self, spec: CalibrationSpec) -> dict[str, torch.Tensor]:
        axes = ("heads", "neurons", "experts", "channels")
        if spec.width == "magnitude":
            return {axis: self.weights[axis] for axis in axes}
        tap = self.identity.neurons[0] if spec.neurons is None else spec.neurons
        width = {}
        for axis in axes:
            name = f"neurons.{tap}" if axis == "neurons" else axis
            moments = self.moments.get(f"{name}.{spec.over_sequence}")
            if moments is None:  # A dense MLP has no experts.
                width[axis] = torch.zeros(self.architecture.num_hidden_layers, 0, dtype=torch.float64)
                continue
            values = moments.over_batch(spec.over_batch, self.sequences)
            # One residual stream runs through all norms, so their scores add up to one ranking of its channels.
            width[axis] = values.sum(dim=0) if axis == "channels" else values
            if spec.width == "wanda":
                width[axis] = width[axis] * self.weights[axis]
        return width

    def _check(self, spec: CalibrationSpec) -> None:
        """Raises SpecError if the spec asks for something else than was measured."""
        identity = self.identity
        for name in ("width", "depth"):
            asked, measured = getattr(spec, name), getattr(identity, name)
            if asked != measured:
                raise SpecError(f"calibration.{name}", asked, "is not what was measured", measured)
        if spec.one_by_one != identity.one_by_one:
            accepted = str(spec.one_by_one).lower()
            raise SpecError("calibration.contiguous", spec.contiguous, "is not what was measured", accepted)
        protected = (spec.protect_first_layers, spec.protect_last_layers)
        if spec.one_by_one and protected != identity.protected:
            value, accepted = (f"{first} first and {last} last" for first, last in (protected, identity.protected))
            raise SpecError("calibration.protect_first_layers", value, "are not what was measured", accepted)
        if identity.width in ("activation", "wanda"):
            if spec.over_sequence not in identity.over_sequence:
                known = ", ".join(identity.over_sequence)
                raise SpecError("calibration.over_sequence", spec.over_sequence, "was not measured", known)
            if spec.neurons is not None and spec.neurons not in identity.neurons:
                raise SpecError("calibration.neurons", spec.neurons, "was not measured", ", ".join(identity.neurons))

    # --- files ----------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        tensors = {
            "damage.high": self.damage.high,
            "damage.low": self.damage.low,
            "tried.high": self.tried.high,
            "tried.low": self.tried.low,
            "order": self.order,
            **{f"weights.{name}": tensor for name, tensor in self.weights.items()},
        }
        for name, moments in self.moments.items():
            tensors |= {f"moments.{name}.{part}": tensor for part, tensor in moments.parts()}
        about = {
            "sha256": _digest(tensors),
            "identity": self.identity.model_dump_json(),
            "architecture": self.architecture.model_dump_json(),
            "sequences": str(self.sequences),
        }
        write_weights(path, tensors, about)

    @classmethod
    def load(cls, path: Path) -> "Statistics":
        """Raises CheckpointError for a file that is damaged, of another version, or something else."""
        return cls._parse(path, *read_described(path))

    @classmethod
    def _parse(cls, path: Path, tensors: dict[str, torch.Tensor], about: dict[str, str]) -> "Statistics":
        if "identity" not in about:
            raise CheckpointError(path, "is not a file of scores")
        if about.get("sha256") != _digest(tensors):
            raise CheckpointError(path, "is damaged: its content is not what was written")
        try:
            firsts = [name for name in tensors if name.endswith(".first.high")]
            names = [name.removeprefix("moments.").removesuffix(".first.high") for name in firsts]
            return cls(
                identity=parse_identity(about["identity"]),
                architecture=Architecture.model_validate_json(about["architecture"]),
                sequences=int(about["sequences"]),
                moments={name: _moments(tensors, name) for name in sorted(names)},
                damage=ExactSum(tensors["damage.high"], tensors["damage.low"]),
                tried=ExactSum(tensors["tried.high"], tensors["tried.low"]),
                order=tensors["order"],
                weights={
                    name.removeprefix("weights."): tensor
                    for name, tensor in tensors.items()
                    if name.startswith("weights.")
                },
            )
        except (LookupError, ValueError) as error:
            problem = "is of another version of Topiary, whose scores do not compare; measure them anew"
            raise CheckpointError(path, problem) from error


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """One SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _moments(tensors: dict[str, torch.Tensor], name: str) -> Moments:
    first_high, first_low, second_high, second_low = (tensors[f"moments.{name}.{part}"] for part in _MOMENT_PARTS)
    return Moments(ExactSum(first_high, first_low), ExactSum(second_high, second_low))


def load_scores(path: Path, spec: CalibrationSpec) -> Scores:
    """Scores of a file, as `spec` derives them; also of one from before there were methods, which has scores only.

    Raises CheckpointError for another file, and SpecError for what was not measured.
    """
    tensors = read_weights(path)
    if "order" in tensors:
        return Statistics.load(path).scores(spec)
    if not {"layers", "heads", "neurons", "channels"} <= set(tensors):
        raise CheckpointError(path, "is not a file of scores")
    num_layers = len(tensors["layers"])
    stretches = torch.full((num_layers, num_layers), torch.nan, dtype=torch.float64)
    experts = torch.zeros(num_layers, 0, dtype=torch.float64)
    return Scores(**{"experts": experts, "stretches": stretches, **tensors})


def merge(shards: Sequence[Statistics]) -> Statistics:
    """All shards of one calibration as what it would have been in one piece.

    Raises SpecError unless they are all of its shards, each once, and differ in nothing else.
    """
    first = shards[0]
    for other in shards[1:]:
        for name, (ours, theirs) in first.identity.differences(other.identity).items():
            if name != "shard":
                problem = f"is the {name} of one, {ours} of another"
                raise SpecError("shards", theirs, problem, "shards of one calibration")
    total = first.identity.shard[1]
    numbers = sorted(each.identity.shard[0] for each in shards)
    if [each.identity.shard[1] for each in shards] != [total] * len(shards) or numbers != list(range(total)):
        given = ", ".join(f"{number + 1} of {total}" for number in numbers)
        raise SpecError("shards", given, "are not all", f"each of the {total} shards, once")
    merged = {name: Moments.zeros(*moments.first.high.shape) for name, moments in first.moments.items()}
    damage, tried = ExactSum.zeros(*first.damage.high.shape), ExactSum.zeros()
    for each in shards:
        for name, moments in merged.items():
            moments.merge(each.moments[name])
        damage.merge(each.damage)
        tried.merge(each.tried)
    return Statistics(
        identity=first.identity.model_copy(update={"shard": (0, 1)}),
        architecture=first.architecture,
        sequences=sum(each.sequences for each in shards),
        moments=merged,
        damage=damage,
        tried=tried,
        order=first.order,
        weights=first.weights,
    )
