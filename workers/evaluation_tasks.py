"""The job that puts questions to a candidate: evaluate."""

import hashlib
import math
from pathlib import Path

from nas.compression.checkpoint import build_model, read_weights
from nas.compression.data import load_tokenizer
from nas.compression.device import computing_in
from nas.compression.importance.questions import in_batches, read_questions
from nas.compression.importance.removal import Damage, Removal
from nas.compression.layerwise import LayersInMemory
from nas.errors import CheckpointError, DataError
from nas.jobs import Evaluate, Evaluated, JobProgress
from workers.attempt import AttemptFolder
from workers.compute import compute, same_teacher

_FIELD = "promotion.gate.questions"


def answer_questions(spec: Evaluate, attempt: AttemptFolder) -> Evaluated:
    """Scores as calibration does, with no layer removed and in the dtype of the trials.

    Raises DataError for questions that cannot be read, CheckpointError for weights with losses that are not finite.
    """
    device, dtype = compute(spec.resources)
    teacher = same_teacher(spec)
    file = Path(spec.questions)
    digest = _sha256(file)
    questions = read_questions(file, load_tokenizer(teacher), teacher.max_positions, _FIELD)
    if _sha256(file) != digest:
        raise DataError(_FIELD, spec.questions, "was changed while it was read", "a file that stays as it is")
    config = teacher.family.config(teacher.config, spec.architecture, spec.kept_layers)
    model = build_model(config, read_weights(Path(spec.weights)), device)
    layers = LayersInMemory(model, teacher.family, spec.architecture.num_hidden_layers)
    whole, done = Damage("accuracy", [Removal()]), 0
    most_choices = max(len(question.choices) for question in questions)
    for some in in_batches(questions, max(1, spec.micro_batch_size // most_choices), device):
        attempt.report_progress(JobProgress(done=done, total=len(questions), unit="questions"))
        with computing_in(dtype, device):
            whole.ask(layers, some, spec.micro_batch_size, lambda passed: None, [Removal()])
        done += len(some.questions)
    share_wrong = whole.of(Removal())
    if math.isnan(share_wrong):
        raise CheckpointError(spec.weights, "answers questions with losses that are not finite")
    return Evaluated(
        num_right=len(questions) - round(share_wrong * len(questions)),
        num_questions=len(questions),
        questions_sha256=digest,
    )


def _sha256(file: Path) -> str:
    """Of the questions, so that answers to others are told apart; empty where the file cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""  # Whoever reads the questions says why.
