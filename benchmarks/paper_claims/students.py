"""The claims on rounds, losses and first weights, from students of the demo's teacher that are retrained alike."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.demo_runs import Demo, Record, Wanted, mean_and_error
from benchmarks.paper_claims.claim import Claim, below, differences, equal
from benchmarks.paper_claims.curves import WIDTH
from nas.distillation_spec import DistillationSpec

SEEDS, TOKENS = (0, 1, 2), 51_200
KD, CLM = DistillationSpec(hidden_states=()), DistillationSpec(logits="none", language_modeling=1, hidden_states=())
EMBEDDING = {"hidden_size": 126}
"""The legal size nearest to two thirds of the teacher's, which is what table 14 leaves of its own."""


@dataclass(frozen=True)
class Student:
    """How one line of students is made and taught."""

    sizes: dict[str, int] = field(default_factory=lambda: WIDTH)
    distillation: DistillationSpec = KD
    weights: Literal["pruned", "random"] = "pruned"
    rounds: int = 1
    draws_samples: bool = False
    """Whether every seed draws calibration samples of its own."""
    tokens: int = TOKENS

    def wanted(self, demo: Demo, seed: int) -> Wanted:
        architecture = demo.teacher.architecture.resized(**self.sizes)
        run = demo.wanted(architecture, seed, self.distillation, tokens=self.tokens)
        cut = {"rounds": self.rounds, "calibration_seed": seed if self.draws_samples else 0}
        return run.model_copy(update={"weights": self.weights, **cut})


STUDENTS = {
    "pruned, KD": Student(),
    "pruned, CLM": Student(distillation=CLM),
    "pruned, CLM, longer": Student(distillation=CLM, tokens=3 * TOKENS // 2),
    "random, KD": Student(weights="random"),
    "random, CLM": Student(weights="random", distillation=CLM),
    "width, 1 round": Student(draws_samples=True),
    "width, 4 rounds": Student(draws_samples=True, rounds=4),
    "embedding, 1 round": Student(EMBEDDING, draws_samples=True),
    "embedding, 2 rounds": Student(EMBEDDING, draws_samples=True, rounds=2),
    "embedding, 4 rounds": Student(EMBEDDING, draws_samples=True, rounds=4),
}
"""Table 11 gives students without a teacher half as many tokens more, for what the teacher would have cost."""


ROUNDS = {
    "embedding, 2 rounds": "embedding, 1 round",
    "embedding, 4 rounds": "embedding, 1 round",
    "width, 4 rounds": "width, 1 round",
}
"""What is compared with what."""


@dataclass(frozen=True)
class Students:
    """Losses by line and seed, right after the cut and at the end, in nats per token."""

    start: dict[str, tuple[float, ...]]
    end: dict[str, tuple[float, ...]]
    one: Wanted
    """Any of the runs, for what they have in common."""

    @classmethod
    def of(cls, demo: Demo, record: Record) -> "Students":
        """Makes what the record does not have."""
        wanted = {(line, seed): student.wanted(demo, seed) for seed in SEEDS for line, student in STUDENTS.items()}
        ended = dict(zip(wanted, record.all_of(wanted.values(), demo.run), strict=True))
        return cls(
            start={line: tuple(ended[line, seed].curve[0].loss for seed in SEEDS) for line in STUDENTS},
            end={line: tuple(ended[line, seed].loss for seed in SEEDS) for line in STUDENTS},
            one=wanted["pruned, KD", SEEDS[0]],
        )

    def claims(self) -> Iterator[Claim]:
        yield self._rounds_change_nothing()
        yield self._pruned_with_a_teacher_is_best()

    def _rounds_change_nothing(self) -> Claim:
        over = {line: differences(self.end[line], self.end[one]) for line, one in ROUNDS.items()}
        told = [f"{line} {self._told(line)}" for line in STUDENTS if line.endswith("1 round")]
        told += [f"{line} {self._told(line)}, difference {mean_and_error(each)}" for line, each in over.items()]
        return Claim(
            says="importance in one shot equals importance in rounds",
            paper="table 14, embedding only:\n1 round 5.43 -> 1.92\n2 rounds 5.55 -> 1.92\n4 rounds 5.24 -> 1.92",
            ours="\n".join(told),
            parts=tuple(equal(self.end[line], self.end[one]) for line, one in ROUNDS.items()),
            figures={
                f"{line.replace(', ', '_').replace(' ', '_')}_over_one": statistics.fmean(each)
                for line, each in over.items()
            },
        )

    def _pruned_with_a_teacher_is_best(self) -> Claim:
        end, lines = self.end, ("pruned, KD", "pruned, CLM", "pruned, CLM, longer", "random, KD", "random, CLM")
        means = {line: statistics.fmean(end[line]) for line in lines}
        return Claim(
            says="pruned with KD beats pruned with CLM beats random weights",
            paper="table 11, MMLU and HellaSwag, KD on two thirds of the tokens:\npruned, KD 37.8, 51.0\npruned, CLM "
            "24.6, 50.9\nrandom 24.4, 46.2\ntable 1, with KD: pruned 2.049 to 2.155, random 3.953",
            ours="\n".join(f"{line} {self._told(line)}" for line in lines),
            parts=(
                below(end["pruned, KD"], end["pruned, CLM"]),
                below(end["pruned, CLM"], end["random, CLM"]),
                below(end["pruned, KD"], end["random, KD"]),
            ),
            figures={
                "clm_over_kd": means["pruned, CLM"] - means["pruned, KD"],
                "longer_clm_over_kd": means["pruned, CLM, longer"] - means["pruned, KD"],
                "random_over_pruned_clm": means["random, CLM"] - means["pruned, CLM"],
                "random_over_pruned_kd": means["random, KD"] - means["pruned, KD"],
                "random_clm_over_random_kd": means["random, CLM"] - means["random, KD"],
            },
        )

    def _told(self, line: str) -> str:
        return f"{statistics.fmean(self.start[line]):.3f} -> {mean_and_error(self.end[line])}"
