"""What one calibration measures: which units, where, which layers, on which of the samples."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

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
    """Where teacher and samples are from, by digests of weights, config, tokens and questions."""

    teacher_sha256: str
    data_sha256: str
    seed: int
    questions_sha256: str | None = None
    config_sha256: str = ""

    @classmethod
    def of(cls, folder: ModelFolder, tokens: PackedTokens, seed: int, questions: Path | None = None) -> "Origin":
        """Reads the weights and the questions whole; of the tokens, their manifest."""
        asked = None if questions is None else hashlib.sha256(questions.read_bytes()).hexdigest()
        config = config_digest(folder)
        return cls(weights_digest(folder), str(tokens.manifest["sha256"]), seed, asked, config)


@dataclass(frozen=True)
class Plan:
    """What is measured of a teacher, and how.

    `depths` are the numbers of layers that students will have. `collect` may ask for more aggregations and taps than
    `spec` chooses, so that one pass serves to compare them. `shard` is (number, of how many), from 0.
    """

    architecture: Architecture
    spec: CalibrationSpec
    depths: tuple[int, ...] = ()
    collect: Recording | None = None
    shard: tuple[int, int] = (0, 1)

    @property
    def family(self) -> Family:
        return family_named(self.architecture.family)

    @property
    def recording(self) -> Recording | None:
        """What hooks take down; nothing for a method that needs no activations."""
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
        """How many layers are tried to go together."""
        num_layers, spec = self.architecture.num_hidden_layers, self.spec
        # Of several rounds only the first cuts the teacher itself.
        fewer = {num_layers - size_after(num_layers, depth, 1, spec.rounds) for depth in self.depths} - {0}
        if spec.depth == "block_influence":
            return tuple(sorted({1, *(fewer if spec.contiguous else ())}))
        if spec.depth not in REMOVING or not fewer:
            return ()
        return tuple(sorted(fewer)) if spec.contiguous else (max(fewer),) if self.one_by_one else (1,)

    @property
    def listens(self) -> bool:
        """Whether the samples pass the whole teacher once, for activations or for Block Influence."""
        return self.recording is not None or self.spec.depth == "block_influence"

    @property
    def removals(self) -> tuple[Removal, ...]:
        """What is tried without, one by one: every stretch of every length."""
        if self.spec.depth not in REMOVING or self.one_by_one:
            return ()
        num_layers = self.architecture.num_hidden_layers
        return tuple(stretch(start, n) for n in self.lengths for start in range(num_layers - n + 1))

    @property
    def one_by_one(self) -> bool:
        """Whether layers are removed one after another, each time the one whose loss changes the logits least."""
        return self.spec.depth == "logit_mse" and not self.spec.contiguous

    def of_shard(self, count: int) -> slice:
        """Which of `count` samples, or questions, the shard has."""
        number, total = self.shard
        return slice(count * number // total, count * (number + 1) // total)

    def samples_of_shard(self, samples: Batch) -> tuple[Batch, Batch]:
        """The shard's samples, and those of them that the removal of layers is tried on."""
        mine = self.of_shard(len(samples.inputs_BT))
        some = slice(mine.start, min(mine.stop, self._depth_samples(len(samples.inputs_BT))))
        return (
            Batch(samples.inputs_BT[mine], samples.targets_BT[mine]),
            Batch(samples.inputs_BT[some], samples.targets_BT[some]),
        )

    def identity(self, origin: Origin, samples: Batch) -> Identity:
        """All that the result depends on. Raises SpecError as `recording`."""
        num_samples, sequence_length = samples.inputs_BT.shape
        recording = self.recording or Recording((), ())
        protected = (self.spec.protect_first_layers, self.spec.protect_last_layers)
        return Identity(
            teacher_sha256=origin.teacher_sha256,
            config_sha256=origin.config_sha256,
            data_sha256=origin.data_sha256,
            sequence_length=sequence_length,
            samples=num_samples,
            seed=origin.seed,
            shard=self.shard,
            width=self.spec.width,
            over_sequence=recording.over_sequence,
            neurons=recording.neurons,
            depth=self.spec.depth,
            lengths=self.lengths,
            depth_samples=self._depth_samples(num_samples),
            protected=protected if self.one_by_one else (0, 0),
            questions_sha256=origin.questions_sha256,
            code=code_identity(),
        )

    def _depth_samples(self, num_samples: int) -> int:
        return min(self.spec.depth_samples or num_samples, num_samples)


def size_after(size: int, target: int, done: int, rounds: int) -> int:
    """How large what is cut from `size` to `target` in equal steps is after some of them, halves rounded up (P1,
    section 2.2)."""
    return size - (2 * done * (size - target) + rounds - 1) // (2 * rounds)
