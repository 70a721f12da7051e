"""What one calibration measures: which units, where, which layers, on which of the samples."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from nas.architecture import Architecture
from nas.calibration import REMOVING, CalibrationSpec
from nas.compression.checkpoint import config_digest, weights_digest
from nas.compression.data import Batch, PackedTokens
from nas.compression.importance.identity import Identity, code_identity
from nas.compression.importance.listening import Recording, neuron_taps
from nas.compression.importance.removal import Removal, stretch
from nas.errors import SpecError
from nas.families import Family, family_named
from nas.model_folder import ModelFolder


@dataclass(frozen=True)
class Origin:
    """Where teacher and samples are from, by digests of weights, config, tokens, and questions with their tokenizer."""

    teacher_sha256: str
    config_sha256: str
    data_sha256: str
    seed: int
    questions_sha256: str | None = None

    @classmethod
    def of(cls, folder: ModelFolder, tokens: PackedTokens, seed: int, questions: Path | None = None) -> "Origin":
        """Reads the weights and the questions whole; of the tokens, their manifest."""
        return cls(
            teacher_sha256=weights_digest(folder),
            config_sha256=config_digest(folder),
            data_sha256=tokens.sha256,
            seed=seed,
            questions_sha256=None if questions is None else _digest(questions, folder.path / "tokenizer.json"),
        )


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


@dataclass(frozen=True)
class Plan:
    """What is measured of a teacher, and how.

    `depths` are the numbers of layers that students will have. `sliding` says which of the teacher's layers attend to
    a window; none where it is left out. `collect` may ask for more aggregations and taps than `spec` chooses, so that
    one pass serves to compare them. `shard` is (number, of how many), from 0.
    """

    architecture: Architecture
    spec: CalibrationSpec
    depths: tuple[int, ...] = ()
    sliding: tuple[bool, ...] = ()
    collect: Recording | None = None
    shard: tuple[int, int] = (0, 1)

    @property
    def family(self) -> Family:
        return family_named(self.architecture.family)

    @property
    def recording(self) -> Recording | None:
        """What hooks take down; nothing for a method that needs no activations.

        Raises SpecError for neurons that are to be listened to where the family has none.
        """
        if self.spec.width not in ("activation", "wanda"):
            return None
        if self.collect is not None:
            return self.collect
        taps = neuron_taps(self.family)
        tap = self.spec.neurons or taps[0]
        if tap not in taps:
            problem = f"is no place in the MLP of a {self.family.model_type}, which has no gate"
            raise SpecError("calibration.neurons", tap, problem, ", ".join(taps))
        return Recording((self.spec.over_sequence,), (tap,))

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many layers are tried to go together; where they go one by one, how many do."""
        num_layers, spec = self.architecture.num_hidden_layers, self.spec
        fewer = {first_step(num_layers, depth, spec.rounds) for depth in self.depths if depth < num_layers}
        if spec.depth == "block_influence":
            return tuple(sorted({1, *(fewer if spec.contiguous else ())}))
        if spec.depth not in REMOVING or not fewer:
            return ()
        return tuple(sorted(fewer)) if spec.contiguous else (max(fewer),) if spec.one_by_one else (1,)

    @property
    def listens(self) -> bool:
        """Whether the samples pass the whole teacher once, for activations or for Block Influence."""
        return self.recording is not None or self.spec.depth == "block_influence"

    @property
    def removals(self) -> tuple[Removal, ...]:
        """What is tried without, one by one: every stretch of every length."""
        if self.spec.depth not in REMOVING or self.spec.one_by_one:
            return ()
        num_layers = self.architecture.num_hidden_layers
        return tuple(stretch(start, n) for n in self.lengths for start in range(num_layers - n + 1))

    def may_go(self, gone: Removal) -> list[int]:
        """Where layers go one by one, which may be next: none that is protected, and of each type its share.

        Raises ValueError for a teacher with layer types whose `sliding` is left out.
        """
        shape, spec = self.architecture, self.spec
        num_layers = shape.num_hidden_layers
        smallest = shape.resized(num_hidden_layers=num_layers - self.lengths[0])
        if shape.has_layer_types and len(self.sliding) != num_layers:
            raise ValueError("which layers slide has to be told, for each type to keep its share")
        slides = self.sliding if shape.has_layer_types else (False,) * num_layers
        num_sliding = smallest.num_sliding_layers if shape.has_layer_types else 0
        stay = {True: num_sliding, False: smallest.num_hidden_layers - num_sliding}
        left = [i for i in range(num_layers) if i not in gone]
        spare = {slide: sum(slides[i] == slide for i in left) > stay[slide] for slide in stay}
        unprotected = range(spec.protect_first_layers, num_layers - spec.protect_last_layers)
        return [i for i in left if i in unprotected and spare[slides[i]]]

    def of_shard(self, count: int) -> slice:
        """Which of `count` samples, or questions, the shard has."""
        number, total = self.shard
        return slice(count * number // total, count * (number + 1) // total)

    def samples_of_shard(self, samples: Batch) -> tuple[Batch, Batch]:
        """The shard's samples, and those of them that the removal of layers is tried on."""
        num_samples = len(samples.inputs_BT)
        mine = self.of_shard(num_samples)
        some = slice(mine.start, min(mine.stop, self.spec.depth_samples or num_samples))
        return (
            Batch(samples.inputs_BT[mine], samples.targets_BT[mine]),
            Batch(samples.inputs_BT[some], samples.targets_BT[some]),
        )

    def identity(self, origin: Origin, samples: Batch, device: torch.device) -> Identity:
        """All that the result depends on. Raises SpecError as `recording`."""
        num_samples, sequence_length = samples.inputs_BT.shape
        recording = self.recording or Recording((), ())
        spec = self.spec
        return Identity(
            teacher_sha256=origin.teacher_sha256,
            config_sha256=origin.config_sha256,
            data_sha256=origin.data_sha256,
            sequence_length=sequence_length,
            samples=num_samples,
            seed=origin.seed,
            shard=self.shard,
            width=spec.width,
            over_sequence=recording.over_sequence,
            neurons=recording.neurons,
            depth=spec.depth,
            lengths=self.lengths,
            one_by_one=spec.one_by_one,
            protected=(spec.protect_first_layers, spec.protect_last_layers) if spec.one_by_one else (0, 0),
            depth_samples=spec.depth_samples,
            questions_sha256=origin.questions_sha256,
            device=device.type,
            code=code_identity(),
        )


def size_after(size: int, target: int, done: int, rounds: int) -> int:
    """How large what is cut from `size` to `target` in equal steps is after some of them, halves rounded up (P1,
    section 2.2)."""
    return size - (2 * done * (size - target) + rounds - 1) // (2 * rounds)


def first_step(size: int, target: int, rounds: int) -> int:
    """By how much the first of the rounds that cuts anything does so; rounding may leave nothing to those before."""
    steps = (size - size_after(size, target, done, rounds) for done in range(1, rounds + 1))
    return next((step for step in steps if step), 0)
