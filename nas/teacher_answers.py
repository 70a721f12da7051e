"""What a teacher has left for all candidates of a search: of which teacher, on which tokens, and in what form."""

from typing import Literal

from nas.border import Border

CachedForm = Literal["sampled", "top_k"]

MANIFEST = "answers.json"


class AnswersIdentity(Border):
    """Everything that a teacher's cached answers depend on; they serve no run that differs in any of it.

    `first_sequence` and `num_sequences` are positions in the training order of `seed`. `per_token` are draws, or the k;
    of validation there are draws whatever the form.
    """

    teacher_sha256: str
    config_sha256: str
    vocab_size: int
    train_sha256: str
    validation_sha256: str
    sequence_length: int
    seed: int
    first_sequence: int
    num_sequences: int
    validation_sequences: int
    form: CachedForm
    per_token: int
    validation_draws: int = 255
    temperature: float
    dtype: str


class AnswersShard(Border):
    """One file: of so many sequences."""

    file: str
    num_sequences: int
    num_bytes: int
    sha256: str


class AnswersManifest(Border):
    """The whole of them: `shards` in the training order, and `validation`; written last."""

    identity: AnswersIdentity
    sequences_per_shard: int
    shards: tuple[AnswersShard, ...]
    validation: AnswersShard
    predicted_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.validation.num_bytes + sum(shard.num_bytes for shard in self.shards)
