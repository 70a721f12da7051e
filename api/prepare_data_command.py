"""`topiary prepare-data`: tokenises a spec's text as a search would, and says what comes of each source."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from api import words
from api.calibration_jobs import search_tokens
from api.display import FILE_WIDTH, plain_table
from api.exit_codes import SUCCESS
from api.one_job import JobFailed, Jobs, checked_teacher, jobs_beside, move, new_place
from nas.border import Border
from nas.jobs import DataPrepared, PrepareData, SourcePrepared
from nas.spec import SearchSpec
from nas.spec_file import read_spec

_KEPT = ("train", "validation", "prepared.json")
_HEADERS = ("source", "share", "documents", "tokens", "trial", "promotion", "validation documents", "sequences")


class SourceView(SourcePrepared):
    """A source with how often a trial reads all of it, and how often a promotion does after that."""

    trial_epochs: float
    promotion_epochs: float


class PreparedView(Border):
    """What a spec's text comes to; `folder` is where it is kept, if it is."""

    folder: str | None
    training_tokens: int
    validation_tokens: int
    sources: tuple[SourceView, ...]


def prepare_data(parsed: argparse.Namespace) -> int:
    into = None if parsed.into is None else new_place("--into", parsed.into, "folder")
    spec = read_spec(parsed.spec)
    checked_teacher(spec)
    # Where something is to be kept it is made anew; else what was made before is held against the spec.
    data = spec.data if into is None else spec.data.model_copy(update={"prepared": None})
    job = PrepareData(teacher=spec.teacher, data=data, training_tokens=search_tokens(spec))
    try:
        with jobs_beside(into or Path(tempfile.gettempdir()) / "prepared", None) as jobs:
            made = jobs.run_one(job, DataPrepared, words.PHASES[job.kind])
            if into is not None:
                move(_kept(jobs, made), into)
    except JobFailed as error:
        return error.told("preparing the data")
    _tell(_view(spec, made, into), parsed.json)
    return SUCCESS


def _kept(jobs: Jobs, made: DataPrepared) -> Path:
    """A folder of only what a search uses again."""
    folder = jobs.folder / "prepared"
    folder.mkdir()
    for name in _KEPT:
        (Path(made.data.train_file).parent / name).rename(folder / name)
    return folder


def _view(spec: SearchSpec, made: DataPrepared, into: Path | None) -> PreparedView:
    length = spec.data.sequence_length
    promotion = spec.promotion.actual_tokens(length) if spec.promotion.winners else 0
    return PreparedView(
        folder=None if into is None else str(into),
        training_tokens=made.training_tokens,
        validation_tokens=made.validation_tokens,
        sources=tuple(
            SourceView(
                **source.model_dump(),
                trial_epochs=_epochs(source, spec.trial.actual_tokens(length), made.sources, length),
                promotion_epochs=_epochs(source, promotion, made.sources, length),
            )
            for source in made.sources
        ),
    )


def _epochs(source: SourcePrepared, tokens: int, sources: Sequence[SourcePrepared], length: int) -> float:
    """How often the sequences of a source are gone through while so many tokens are trained on."""
    share = source.per_block / sum(each.per_block for each in sources)
    return tokens * share / ((source.tokens - 1) // length * length)


def _tell(view: PreparedView, as_json: bool) -> None:
    if as_json:
        print(view.model_dump_json())
        return
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    table = plain_table(_HEADERS)
    for source in view.sources:
        table.add_row(
            source.name,
            f"{source.per_block / 10:g} %",
            f"{source.documents:,}",
            f"{source.tokens:,}",
            f"{source.trial_epochs:.3g}",
            f"{source.promotion_epochs:.3g}",
            f"{source.validation_documents:,}",
            f"{source.validation_sequences:,}",
        )
    console.print(table, highlight=False)
    lines = [
        "documents, tokens: as many as a search needs; trial, promotion: how often each reads all of these",
        "sequences: those that losses are measured on",
    ]
    if view.folder is not None:
        lines.append(f"kept in {view.folder}; data.prepared: {json.dumps(view.folder)} uses it again")
    console.print(Text("\n".join(lines)), highlight=False, soft_wrap=True)
