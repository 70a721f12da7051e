"""Retrained students of the demo's teacher, for the benchmarks that need many of them.

Teacher, text, calibration and training are those of examples/demo, one thread each, behind all that runs beside them.
A run that has ended is a line of a file: a program that is started again goes on from there, and a run that two
programs want is made once.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from examples.demo.run import SPEC, write_corpus
from nas.architecture import Architecture
from nas.border import Border
from nas.compression.answers_writer import AnswersWriter
from nas.compression.cached_teacher import Answers, CachedTeacher
from nas.compression.checkpoint import config_digest, load_model, own_tensors, weights_digest
from nas.compression.data import Batch, PackedTokens, load_tokenizer, write_token_file
from nas.compression.device import dtype_name, resolve_dtype
from nas.compression.evaluate import Evaluation
from nas.compression.head import SplitModel
from nas.compression.importance import Origin, Plan, Source, calibrate
from nas.compression.importance.rounds import choose_in_rounds
from nas.compression.kernels import parse_config
from nas.compression.prune import cut
from nas.compression.scores import Scores
from nas.compression.student import Distillation
from nas.compression.teacher import LiveTeacher, Teacher
from nas.distillation_spec import DistillationSpec
from nas.enumeration import enumerate_candidates
from nas.model_folder import inspect_model_folder
from nas.space import SearchSpace
from nas.spec_file import read_spec
from nas.teacher_answers import AnswersIdentity
from nas.training_spec import TrialSpec

RUNS = Path(__file__).parents[1] / "runs" / "benchmarks" / "demo_runs.jsonl"
MEASUREMENTS, CHECKPOINT_SECONDS, MICRO_BATCH = 2, 1e9, 16
CPU = torch.device("cpu")


class Wanted(Border):
    """All that makes a run what it is, on one machine and with one version of the code.

    Students are cut from the teacher in `rounds`, by samples that `calibration_seed` draws. Random weights are drawn by
    `seed`, which orders the text, too.
    """

    architecture: Architecture
    training: TrialSpec
    distillation: DistillationSpec = DistillationSpec()
    weights: Literal["pruned", "random"] = "pruned"
    rounds: int = 1
    calibration_seed: int = 0
    seed: int = 0
    validation_sequences: int
    dtype: str
    torch: str = version("torch")


class Point(Border):
    """Validation loss and KL to the teacher, in nats per token, after so many tokens."""

    tokens: int
    loss: float
    kl_to_teacher: float


class Ended(Border):
    """A run and its curve, from the cut to its end; seconds are those of one core."""

    wanted: Wanted
    curve: tuple[Point, ...]
    seconds: float

    @property
    def loss(self) -> float:
        """At the end, in nats per token."""
        return self.curve[-1].loss


class Demo:
    """The demo's teacher, text and spec, from which students are cut and retrained."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes what is made on the way: token files, a cached teacher's answers, checkpoints."""
        self.spec = read_spec(SPEC)
        train, validation = Path(self.spec.data.train or ""), Path(self.spec.data.validation or "")
        write_corpus(train, validation)
        self.teacher = inspect_model_folder(Path(self.spec.teacher))
        self.dtype = resolve_dtype(self.spec.resources.dtype, CPU)
        self._folder = folder
        self._train, self._validation = self._packed(train), self._packed(validation)
        self._source = Source.of(self.teacher, CPU, micro_batch_size=MICRO_BATCH)
        self._sha256 = weights_digest(self.teacher)

    def wanted(
        self,
        architecture: Architecture,
        seed: int = 0,
        distillation: DistillationSpec | None = None,
        **training: Any,
    ) -> Wanted:
        """A run as the demo's trials are, with `training` in place of some of their settings."""
        settings = {"measurements": MEASUREMENTS, "checkpoint_seconds": CHECKPOINT_SECONDS, **training}
        losses, layers = distillation or self.spec.distillation, self.teacher.architecture.num_hidden_layers
        return Wanted(
            architecture=architecture,
            training=TrialSpec.model_validate({**self.spec.trial.model_dump(), **settings}),
            # What `auto` comes to, so that runs are the same however their losses were asked for.
            distillation=losses.model_copy(
                update={"hidden_states": losses.terms(layers, architecture.num_hidden_layers)}
            ),
            seed=seed,
            validation_sequences=self.spec.data.validation_sequences,
            dtype=dtype_name(self.dtype),
        )

    def candidates(self, space: SearchSpace | None = None) -> list[Architecture]:
        """All shapes within the demo's budget, as a search lists them: of its own space, or of another."""
        length = self.spec.data.sequence_length
        found = enumerate_candidates(
            space or self.spec.space, self.spec.budget, self.teacher.architecture, sequence_length=length
        )
        return found.first(len(found))

    def run(self, wanted: Wanted, observe: Callable[[int, Evaluation], None] = lambda *_: None) -> Ended:
        """Cuts and retrains one student; `observe` is told the tokens and all that was found at each measurement."""
        began, curve = time.process_time(), list[Point]()

        def record(tokens: int, found: Evaluation) -> None:
            observe(tokens, found)
            curve.append(Point(tokens=tokens, loss=found.loss, kl_to_teacher=found.kl_to_teacher or 0.0))

        teacher = self.teacher
        config, weights = self._cut(wanted) if wanted.weights == "pruned" else self._drawn(wanted)
        targets = self._live(wanted) if wanted.training.targets == "live" else self._cached(wanted)
        distillation = Distillation(
            config=config,
            teacher=targets,
            runs_live=wanted.training.targets == "live",
            teacher_shape=teacher.architecture,
            losses=wanted.distillation,
            data=self._train,
            validation=self._validation.first(wanted.validation_sequences),
            training=wanted.training,
            until_tokens=wanted.training.tokens,
            first_sequence=0,
            seed=wanted.seed,
            device=CPU,
            dtype=self.dtype,
        )
        with tempfile.TemporaryDirectory(dir=self._folder) as checkpoints:
            distillation.run(
                weights,
                checkpoints=Path(checkpoints),
                earlier_checkpoints=(),
                record=record,
                progress=lambda _: None,
            )
        return Ended(wanted=wanted, curve=tuple(curve), seconds=round(time.process_time() - began, 2))

    def _cut(self, wanted: Wanted) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Config and weights of what stays of the teacher."""
        teacher, student, seed = self.teacher, wanted.architecture, wanted.calibration_seed
        kept = choose_in_rounds(
            teacher,
            student,
            self.spec.calibration.model_copy(update={"rounds": wanted.rounds}),
            self._scores(seed),
            self._samples(seed),
            seed,
            device=CPU,
            micro_batch_size=MICRO_BATCH,
        )
        config = teacher.family.config(teacher.config, student, kept.layers)
        return config, dict(cut(self._source.read, teacher.architecture, student, kept))

    def _drawn(self, wanted: Wanted) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Config and random weights by the run's seed, as those that the teacher's own training began with."""
        student = wanted.architecture
        config = self.teacher.family.config(self.teacher.config, student, tuple(range(student.num_hidden_layers)))
        torch.manual_seed(wanted.seed)
        model = AutoModelForCausalLM.from_config(parse_config(config), dtype=torch.float32)
        return config, own_tensors(model)

    def _samples(self, seed: int) -> Batch:
        return self._train.sample(self.spec.calibration.samples, seed)

    @cache  # noqa: B019 - one demo lives as long as the program.
    def _scores(self, seed: int) -> Scores:
        """From one calibration for all students."""
        spec = self.spec.calibration
        plan = Plan(self.teacher.architecture, spec)
        return calibrate(plan, self._source, self._samples(seed), Origin("", "", "", seed)).scores(spec)

    @cached_property
    def _model(self) -> SplitModel:
        return SplitModel(load_model(self.teacher, CPU), self.dtype, CPU)

    def _live(self, wanted: Wanted) -> Teacher:
        return LiveTeacher(self._model, wanted.distillation)

    def _cached(self, wanted: Wanted) -> Teacher:
        """The teacher's answers, written at the first run that reads them."""
        training, length = wanted.training, self._train.sequence_length
        if training.targets == "live":
            raise ValueError("a live teacher leaves no answers")
        identity = AnswersIdentity(
            teacher_sha256=self._sha256,
            config_sha256=config_digest(self.teacher),
            vocab_size=self.teacher.architecture.vocab_size,
            train_sha256=self._train.sha256,
            validation_sha256=self._validation.sha256,
            sequence_length=length,
            seed=wanted.seed,
            first_sequence=0,
            num_sequences=training.actual_tokens(length) // length,
            validation_sequences=min(wanted.validation_sequences, self._validation.num_sequences),
            form=training.targets,
            per_token=training.targets_per_token,
            temperature=wanted.distillation.temperature,
            dtype=wanted.dtype,
        )
        folder = self._folder / f"{identity.form}-{identity.per_token}-{identity.num_sequences}-{identity.seed}"
        if not folder.exists():
            validation = self._validation.first(wanted.validation_sequences)
            AnswersWriter(self._model, self._train, validation, identity, CPU, MICRO_BATCH).write(folder)
        return CachedTeacher(Answers(folder, identity), CPU)

    def _packed(self, text: Path) -> PackedTokens:
        into = self._folder / f"{text.stem}.bin"
        texts = (json.loads(line)["text"] for line in text.read_text().splitlines())
        write_token_file(into, texts, load_tokenizer(self.teacher), self.teacher.end_of_text or 0)
        return PackedTokens(into, self.spec.data.sequence_length)


class Record:
    """A file of runs, one a line, that grows as they end."""

    def __init__(self, file: Path) -> None:
        """A last line that was cut off in writing is taken away: its run is made again."""
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(file, len(whole))
        self._file = file
        runs = [Ended.model_validate_json(line) for line in whole.splitlines()]
        self._ended = {run.wanted.model_dump_json(): run for run in runs}

    def all_of(self, wanted: Iterable[Wanted], make: Callable[[Wanted], Ended]) -> list[Ended]:
        """The runs in the order asked for; what is not there yet is made, and the time left is told on the way."""
        asked = [(each.model_dump_json(), each) for each in wanted]
        keys = dict(asked)
        missing = [key for key in keys if key not in self._ended]
        seconds: list[float] = []
        for done, key in enumerate(missing):
            began = time.monotonic()
            ended = make(keys[key])
            with self._file.open("a") as file:
                file.write(ended.model_dump_json() + "\n")
            self._ended[key] = ended
            seconds.append(time.monotonic() - began)
            left = statistics.fmean(seconds) * (len(missing) - done - 1) / 60
            label = ended.wanted.architecture.label
            print(
                f"{len(keys) - len(missing) + done + 1} of {len(keys)} runs: {label}, loss {ended.loss:.3f}, "
                f"{ended.seconds:.0f} s; {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
        return [self._ended[key] for key, _ in asked]


def with_demo(measure: Callable[[Demo, Record], None], description: str | None) -> None:
    """Runs a program's `measure` with one thread, behind all else, and the file that its command line names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS, help="the file of runs (default: %(default)s)")
    file: Path = parser.parse_args().runs
    os.nice(10)
    torch.set_num_threads(1)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        measure(Demo(Path(folder)), Record(file))


def mean_and_error(values: Sequence[float]) -> str:
    """As in `2.917 ± 0.004`: the standard error of the mean."""
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"
