"""The job that turns text into token files: for each source, a part to validate on and a part to train on.

train/sources.json, train/NAME/             (nas/compression/data.py, token_files.py)
validation/sources.json, validation/NAME/
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

from nas.compression.data import WeightedSource, write_sources
from nas.compression.documents import training_documents, validation_documents
from nas.compression.order import BLOCK
from nas.compression.token_files import SHARD_TOKENS, Encoding, ShardWriter, SourceManifest, load_tokenizer
from nas.data_spec import DataSpec, Source, divided
from nas.errors import DataError, TeacherError
from nas.hub import weights_folder
from nas.jobs import DataFiles, DataPrepared, JobProgress, PrepareData, SourcePrepared
from nas.model_folder import inspect_model_folder
from workers.attempt import TRAIN, VALIDATION, AttemptFolder
from workers.prepared import local_files, record_prepared, use_prepared


def prepare_data(spec: PrepareData, attempt: AttemptFolder) -> DataPrepared:
    """Tokenises the validation of all sources first, so that no document of it can enter the training of any.

    Goes on from the whole shards of earlier attempts, as far as they are of the same documents. Where the spec names
    data that was prepared before, that is used.
    """
    data, encoding = spec.data, _encoding(spec.teacher)
    if data.prepared is not None:
        return use_prepared(Path(data.prepared), spec, encoding, attempt.path)
    work, files = _Work(spec, attempt, encoding), local_files(data)
    digests: set[bytes] = set()
    held = [work.validation(source, wanted, digests) for source, wanted in _each(data, data.validation_sequences)]
    train = [work.training(source, frozenset(digests)) for source in data.all_sources]
    weights = [WeightedSource(name=source.name, weight=source.weight) for source in data.all_sources]
    for part in (TRAIN, VALIDATION):
        write_sources(attempt.path / part, weights)
    made = DataPrepared(
        data=DataFiles(
            train_file=str(attempt.path / TRAIN),
            validation_file=str(attempt.path / VALIDATION),
            sequence_length=data.sequence_length,
            validation_sequences=data.validation_sequences,
        ),
        training_tokens=sum(each.tokens for each in train),
        validation_tokens=sum(each.tokens for each in held),
        sources=tuple(_told(data, train, held)),
    )
    record_prepared(attempt.path, spec, encoding, files, made)
    return made


def _encoding(teacher: str) -> Encoding:
    folder = inspect_model_folder(weights_folder(teacher))
    if folder.end_of_text is None:
        raise TeacherError("teacher", teacher, "has no eos_token_id in config.json", "a token that ends a document")
    return Encoding(load_tokenizer(folder), folder.end_of_text)


def _each(data: DataSpec, total: int) -> list[tuple[Source, int]]:
    """The sources with their shares of a total."""
    sources = data.all_sources
    return list(zip(sources, divided(total, [source.weight for source in sources]), strict=True))


def _told(data: DataSpec, train: Sequence[SourceManifest], held: Sequence[SourceManifest]) -> list[SourcePrepared]:
    return [
        SourcePrepared(
            name=source.name,
            per_block=per_block,
            documents=training.documents,
            tokens=training.tokens,
            validation_documents=validation.documents,
            validation_tokens=validation.tokens,
            validation_sequences=sequences,
        )
        for (source, per_block), (_, sequences), training, validation in zip(
            _each(data, BLOCK), _each(data, data.validation_sequences), train, held, strict=True
        )
    ]


@dataclass
class _Work:
    """What one attempt writes; it tells how many tokens of all sources there are."""

    spec: PrepareData
    attempt: AttemptFolder
    encoding: Encoding
    tokens_before: int = 0

    def validation(self, source: Source, sequences: int, digests: set[bytes]) -> SourceManifest:
        """Raises DataError where there is too little of it."""
        data = self.spec.data
        wanted = sequences * data.sequence_length + 1
        written = ShardWriter(
            folder=self.attempt.path / VALIDATION / source.name,
            documents=partial(validation_documents, source, data.validation_fraction, digests),
            encoding=self.encoding,
            max_tokens=wanted,
            progress=lambda tokens: self.attempt.end_if_told(),
        ).write()
        if written.tokens < wanted:
            raise _too_little_validation(data, source, sequences, written.tokens)
        return written

    def training(self, source: Source, digests: frozenset[bytes]) -> SourceManifest:
        """Raises DataError where there is not one sequence."""
        data, folder = self.spec.data, Path(TRAIN) / source.name
        earlier = [Path(each) / folder for each in self.attempt.assignment.earlier_folders]
        written = ShardWriter(
            folder=self.attempt.path / folder,
            documents=partial(training_documents, source, data, without=digests),
            encoding=self.encoding,
            max_tokens=_wanted(self.spec, source),
            earlier=earlier,
            shard_tokens=SHARD_TOKENS,
            progress=self._progress(),
            written=self.attempt.checkpointed,
        ).write()
        length = data.sequence_length
        if written.tokens <= length:
            problem = f"holds {written.tokens} tokens besides the validation text"
            accepted = f"at least one sequence, {length + 1} tokens"
            raise DataError(source.training.field, source.training.path, problem, accepted)
        self.tokens_before += written.tokens
        return written

    def _progress(self) -> Callable[[int], None]:
        before, total = self.tokens_before, self.spec.training_tokens

        def told(tokens: int) -> None:
            self.attempt.report_progress(JobProgress(done=min(before + tokens, total), total=total, unit="tokens"))

        return told


def _wanted(spec: PrepareData, source: Source) -> int:
    """Tokens of a source that its share of the whole order can reach, and the target of the last."""
    ((_, per_block),) = [each for each in _each(spec.data, BLOCK) if each[0] == source]
    if per_block == BLOCK:
        return spec.training_tokens + 1
    sequences = ceil(spec.training_tokens / spec.data.sequence_length)
    # More, for the share of what comes before a position in a block is off by up to one for each of the others.
    return (ceil(sequences * per_block / BLOCK) + len(spec.data.all_sources)) * spec.data.sequence_length + 1


def _too_little_validation(data: DataSpec, source: Source, sequences: int, tokens: int) -> DataError:
    wanted = f"{sequences} sequences of {data.sequence_length}"
    fitting = max(0, tokens - 1) // data.sequence_length * data.validation_sequences // sequences
    fewer = f"data.validation_sequences up to {fitting}, " if fitting >= len(data.all_sources) else ""
    if source.validation is not None:
        problem = f"holds {tokens:,} tokens, too few for {wanted}"
        return DataError(source.validation.field, source.validation.path, problem, f"{fewer}or more text")
    own = "data.validation" if data.sources is None else source.training.field.replace("path", "validation")
    problem = f"leaves {tokens:,} tokens for validation (each document whole), too few for {wanted}"
    accepted = f"{fewer}a larger data.validation_fraction, more documents, or a text of its own as {own}"
    return DataError(source.training.field, source.training.path, problem, accepted)
