"""The sides that are compared, each a function that trains and says when its steps began."""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.distillation import setup
from nas.compression.answers_writer import AnswersWriter
from nas.compression.cached_teacher import Answers, CachedTeacher
from nas.compression.data import Batch
from nas.compression.gradients import Terms
from nas.compression.head import SplitModel
from nas.compression.objective import DistillationObjective
from nas.compression.teacher import LiveTeacher, Teacher
from nas.compression.train import Run, train
from nas.distillation_spec import DistillationSpec
from nas.teacher_answers import AnswersIdentity

Loaded = Callable[[], None]
"""To be called once the models are in memory, and nothing else is."""

NUM_STEPS = setup.WARM_UP + setup.STEPS + 1
"""The last is begun only: steps are timed from beginning to beginning."""


# --- ours ----------------------------------------------------------------------------------------------------


def live(folder: Path, loaded: Loaded) -> list[setup.Begun]:
    teacher = SplitModel(setup.model(setup.TEACHER, 0), torch.float32, setup.CPU)
    return _ours(folder, LiveTeacher(teacher), loaded)


def cached(folder: Path, loaded: Loaded) -> list[setup.Begun]:
    return _ours(folder, CachedTeacher(Answers(folder / "answers", _identity(folder)), setup.CPU), loaded)


def _ours(folder: Path, teacher: Teacher, loaded: Loaded) -> list[setup.Begun]:
    student = setup.model(setup.STUDENT, 1)
    objective = DistillationObjective(SplitModel(student, torch.float32, setup.CPU), teacher, DistillationSpec(), None)
    began: list[setup.Begun] = []

    def timed(batch: Batch) -> Terms:
        began.append(setup.begun())
        return objective(batch)

    loaded()
    run = Run(
        model=student,
        objective=timed,
        data=setup.packed_tokens(folder),
        spec=setup.training(NUM_STEPS),
        seed=0,
        device=setup.CPU,
        micro_batch_size=setup.BATCH,
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        train(run, checkpoints=Path(checkpoints), measure=lambda _: None, progress=lambda _: None)
    return began


def write_answers(folder: Path) -> tuple[int, int]:
    """The bytes of the teacher's answers, and what was predicted."""
    data, teacher = setup.packed_tokens(folder), SplitModel(setup.model(setup.TEACHER, 0), torch.float32, setup.CPU)
    writer = AnswersWriter(teacher, data, data.first(1), _identity(folder), setup.CPU, setup.BATCH)
    manifest = writer.write(folder / "answers")
    return manifest.num_bytes, manifest.predicted_bytes


def _identity(folder: Path) -> AnswersIdentity:
    return AnswersIdentity(
        teacher_sha256="",
        config_sha256="",
        vocab_size=setup.VOCAB,
        train_sha256=setup.packed_tokens(folder).sha256,
        validation_sha256="",
        sequence_length=setup.LENGTH,
        seed=0,
        first_sequence=0,
        num_sequences=NUM_STEPS * setup.BATCH,
        validation_sequences=1,
        form="sampled",
        per_token=setup.DRAWS,
        temperature=1.0,
        dtype="float32",
    )


# --- theirs --------------------------------------------------------------------------------------------------


class _Began(TrainerCallback):
    def __init__(self) -> None:
        self.at: list[setup.Begun] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.at.append(setup.begun())


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": setup.BATCH,
        "max_steps": NUM_STEPS,
        "learning_rate": setup.LEARNING_RATE,
        "weight_decay": setup.WEIGHT_DECAY,
        "max_grad_norm": setup.CLIP,
        "adam_beta2": 0.95,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "remove_unused_columns": False,
    }


def _examples(folder: Path) -> list[dict[str, torch.Tensor]]:
    """The sequences that our loop sees, in its order; those who shift labels themselves get one token more."""
    data = setup.packed_tokens(folder)
    batch = data.training_batch(0, NUM_STEPS * setup.BATCH, seed=0)
    return [{"input_ids": inputs, "labels": inputs} for inputs in batch.inputs_BT]


def trainer(folder: Path, loaded: Loaded) -> list[setup.Begun]:
    """The loss as guides have it: torch's own kl_div of both softmaxes, over whole logits."""
    teacher, student = setup.model(setup.TEACHER, 0), setup.model(setup.STUDENT, 1)

    class DistillationTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
            logits = model(input_ids=inputs["input_ids"], use_cache=False).logits
            with torch.no_grad():
                targets = teacher(input_ids=inputs["input_ids"], use_cache=False).logits
            log_q, p = F.log_softmax(logits, dim=-1), F.softmax(targets, dim=-1)
            return F.kl_div(log_q.flatten(0, 1), p.flatten(0, 1), reduction="batchmean")

    loaded()
    began = _Began()
    with tempfile.TemporaryDirectory() as out:
        DistillationTrainer(
            model=student,
            args=TrainingArguments(**_settings(Path(out))),
            train_dataset=_examples(folder),
            callbacks=[began],
        ).train()
    return began.at


def trl(folder: Path, loaded: Loaded) -> list[setup.Begun]:
    """Without generation (lmbda 0), and with the forward KL (beta 0)."""
    gkd: Any = importlib.import_module("trl.experimental.gkd")
    teacher, student = setup.model(setup.TEACHER, 0), setup.model(setup.STUDENT, 1)
    loaded()
    began = _Began()
    with tempfile.TemporaryDirectory() as out:
        settings = {**_settings(Path(out)), "lmbda": 0.0, "beta": 0.0, "temperature": 1.0, "seq_kd": False}
        examples = importlib.import_module("datasets").Dataset.from_list(
            [{name: value.tolist() for name, value in each.items()} for each in _examples(folder)]
        )
        gkd.GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=gkd.GKDConfig(**settings, bf16=False, gradient_checkpointing=False),
            train_dataset=examples,
            processing_class=_no_tokenizer(),
            data_collator=_collate,
            callbacks=[began],
        ).train()
    return began.at


def _collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([each["input_ids"] for each in examples])
    return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids), "prompts": ids[:, :1]}


def _no_tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({f"t{i}": i for i in range(setup.VOCAB)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t0", pad_token="t0")


SIDES: dict[str, Callable[[Path, Loaded], list[setup.Begun]]] = {
    "live": live,
    "cached": cached,
    "trainer": trainer,
    "trl": trl,
}
