"""`topiary prune`: cuts a student of one shape out of a spec's teacher, and keeps it as a folder."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from api import words
from api.calibration_jobs import in_options, prepare, score
from api.display import FILE_WIDTH, SHAPE
from api.exit_codes import SUCCESS
from api.importance_command import draw
from api.one_job import JobFailed, Jobs, checked_teacher, jobs_beside, move, new_place
from nas.architecture import AXES, Architecture, Axis
from nas.calibration import check_protected
from nas.errors import FolderError, NotFoundError, SettingError, SpecError
from nas.families import family_named
from nas.grid import grid
from nas.importance_view import ImportanceView
from nas.jobs import DataPrepared, Prune, Pruned
from nas.space import SearchSpace
from nas.spec import SearchSpec
from nas.spec_file import read_spec


def prune(parsed: argparse.Namespace) -> int:
    into = new_place("--into", parsed.into, "folder")
    figures = None if parsed.figures is None else new_place("--figures", parsed.figures, "file")
    if figures == into:
        raise FolderError("--figures", str(figures), "is the folder of --into", "another place")
    scores = None if parsed.scores is None else _file_of_scores(parsed.scores)
    spec = read_spec(parsed.spec)
    teacher = checked_teacher(spec).architecture
    student = student_of(teacher, {axis: size for axis in AXES if (size := getattr(parsed, axis)) is not None})
    check_protected(spec.calibration, teacher, [student.num_hidden_layers])
    try:
        with jobs_beside(into, parsed.ray_address) as jobs:
            data = prepare(jobs, spec)
            pruned = jobs.run_one(
                _job(spec, teacher, student, data, scores or _own_scores(jobs, spec, teacher, student, data)),
                Pruned,
                f"cutting a student of {student.label} out of a teacher of {teacher.label}",
            )
            move(Path(pruned.folder), into)
            if figures is not None:
                view = ImportanceView.model_validate_json(Path(pruned.importance_file).read_text(encoding="utf-8"))
                title = f"{spec.name}: {student.label}"
                draw(figures, view, title, pruned.kept_layers, {axis: getattr(student, axis) for axis in AXES})
    except JobFailed as error:
        return in_options(error).told("the cut")
    _tell(parsed, pruned, teacher, student, into)
    return SUCCESS


def option_of(axis: Axis) -> str:
    return f"--{axis.replace('_', '-')}"


def student_of(teacher: Architecture, sizes: dict[Axis, int]) -> Architecture:
    """The teacher's shape with other sizes. Raises SettingError, naming the option, for one that cannot be cut."""
    try:
        grid(SearchSpace.model_validate({axis: [size] for axis, size in sizes.items()}), teacher)
    except SpecError as error:
        raise _of_options(error, sizes) from error
    return teacher.resized(**sizes)


def _of_options(error: SpecError, sizes: dict[Axis, int]) -> SettingError:
    """What is wrong with a space of one shape, in the words of the options that gave its sizes."""
    axis = next((axis for axis in sizes if error.field == f"space.{axis}"), None)
    if axis is not None:
        accepted = error.accepted.replace("no num_experts", "no --num-experts")
        return SettingError(option_of(axis), sizes[axis], error.problem, accepted)
    rule = error.accepted.removesuffix(" (removed 1)")
    named = [axis for axis in sizes if axis in rule] or list(sizes)
    given = ", ".join(option_of(axis) for axis in named), ", ".join(str(sizes[axis]) for axis in named)
    return SettingError(*given, "makes no legal shape", rule)


def _file_of_scores(given: Path) -> Path:
    file = given.absolute()
    if not file.is_file():
        raise NotFoundError("--scores", str(file), "is not there", "a file that topiary importance wrote")
    return file


def _own_scores(jobs: Jobs, spec: SearchSpec, teacher: Architecture, student: Architecture, data: DataPrepared) -> Path:
    print("topiary: no --scores are given, so the teacher is scored first, and nothing of that kept", file=sys.stderr)
    return score(jobs, spec, teacher, data, [student.num_hidden_layers]).scores_file


def _job(spec: SearchSpec, teacher: Architecture, student: Architecture, data: DataPrepared, scores: Path) -> Prune:
    return Prune(
        teacher=spec.teacher,
        scores_file=str(scores),
        architecture=student,
        calibration=spec.calibration,
        data=data.data,
        micro_batch_size=spec.trial.fitting_micro_batch(spec.data.sequence_length, teacher.vocab_size),
        seed=spec.seed,
        resources=spec.resources,
        provenance={
            "spec": spec.model_dump(mode="json"),
            "architecture": student.model_dump(),
            "parameters": family_named(student.family).count(student),
        },
    )


def _tell(parsed: argparse.Namespace, pruned: Pruned, teacher: Architecture, student: Architecture, into: Path) -> None:
    if parsed.json:
        told = {**pruned.model_dump(mode="json", exclude={"kind", "importance_file"}), "folder": str(into)}
        print(json.dumps({**told, "architecture": student.model_dump()}))
        return
    gone = sorted(set(range(teacher.num_hidden_layers)) - set(pruned.kept_layers))
    of_teacher = family_named(teacher.family).count(teacher)
    lines = [
        f"shape           {student.label} ({SHAPE})",
        f"parameters      {pruned.parameters:,} of the teacher's {of_teacher:,}",
        f"loss            {words.loss(pruned.loss)} nats per token, before any retraining",
        f"layers gone     {', '.join(map(str, gone)) or 'none'}, of 0 to {teacher.num_hidden_layers - 1}",
        f"model           {into}",
        *([] if parsed.figures is None else [f"figures         {parsed.figures.absolute()}"]),
    ]
    width = None if sys.stdout.isatty() else FILE_WIDTH
    Console(width=width).print(Text("\n".join(lines)), highlight=False, soft_wrap=True)
