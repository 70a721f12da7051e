"""The `topiary` command: its options, and what its exit codes mean."""

import argparse
import importlib.metadata
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from api import (
    client_commands,
    doctor_command,
    importance_command,
    latency_command,
    lifecycle_commands,
    plan_command,
    prepare_data_command,
    prune_command,
    retention_command,
    service_commands,
    study_command,
)
from api.exit_codes import BAD_INPUT, FAILURE, INTERRUPTED
from api.settings import DEFAULT_PORT
from nas.architecture import AXES, Axis
from nas.errors import ServiceError, TopiaryError, UserError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    return guarded(lambda: parsed.command(parsed), again=getattr(parsed, "again", ""))


def guarded(command: Callable[[], int], *, again: str = "") -> int:
    """The command's exit code, with bad input and interruption turned into a sentence and a code of their own.

    `again` says what the same command does when it is given once more.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return command()
    except UserError as error:
        for each in (error, *error.also):
            print(f"topiary: {each}", file=sys.stderr)
        return BAD_INPUT
    except (TopiaryError, OSError) as error:
        mended = f"; once that is mended, {again}" if again and not isinstance(error, ServiceError) else ""
        print(f"topiary: {error}{mended}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print(f"topiary: interrupted{f'; {again}' if again else ''}", file=sys.stderr)
        return INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topiary", description="Cuts compact language models out of a large one.")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("topiary-nas"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_service(commands)
    _add_client(commands)
    _add_lifecycle(commands)
    _add_local(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_service(commands: Commands) -> None:
    """The service itself."""
    serve = _command(commands, "serve", service_commands.serve, "run the whole service on this machine")
    _listening(serve)
    _storage(serve, artifacts=True, ray=True)
    http = _command(commands, "http", service_commands.http, "run the HTTP server alone")
    _listening(http)
    _storage(http, artifacts=True)
    http.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    scheduler = _command(commands, "scheduler", service_commands.scheduler, "run a scheduler alone")
    _storage(scheduler, artifacts=True, ray=True)
    scheduler.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    for child in (serve, http, scheduler):
        child.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    migrate = _command(commands, "migrate", service_commands.migrate, "bring the database's tables up to date")
    migrate.add_argument("--down", action="store_true", help="one version back instead, for an older program")
    _storage(migrate)
    retention = _command(
        commands, "retention", retention_command.retention, "remove artifacts that ended searches do not need any more"
    )
    retention.add_argument("search", nargs="?", metavar="SEARCH", help="only of this one")
    retention.add_argument(
        "--older-than",
        type=_days,
        default=retention_command.DAYS,
        metavar="DAYS",
        help="of searches that ended so many days ago (default: %(default)s)",
    )
    retention.add_argument("--dry-run", action="store_true", help="remove nothing, only say what would be removed")
    retention.add_argument("--json", action="store_true", help="print what is removed as JSON")
    _storage(retention, artifacts=True)
    doctor = _command(
        commands, "doctor", doctor_command.doctor, "say whether all that the service rests on is fit for use"
    )
    _storage(doctor, artifacts=True, ray=True)
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")


def _add_client(commands: Commands) -> None:
    """What a running service is asked."""
    submit = _command(commands, "submit", client_commands.submit, "submit a search, or take one up again")
    submit.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    submit.add_argument("--watch", action="store_true", help="then watch it to its end")
    _remote(submit)
    searches = _command(commands, "searches", client_commands.searches, "list the searches")
    searches.add_argument("--archived", action="store_true", help="those that are archived instead")
    _remote(searches)
    for name, command, does in (
        ("watch", client_commands.watch, "watch a search live, to its end"),
        ("leaderboard", client_commands.leaderboard, "print a search's leaderboard"),
    ):
        _remote(_of_search(commands, name, command, does))
    best = _of_search(commands, "best", client_commands.best, "print the best architecture and where its weights are")
    best.add_argument(
        "--where",
        action="append",
        metavar="CONSTRAINT",
        default=[],
        help="of those within this, such as parameters<=1e9; may be given several times",
    )
    _remote(best)
    logs = _of_search(commands, "logs", client_commands.logs, "list a search's attempts, or print one job's log")
    logs.add_argument("--job", type=int, help="the end of the log of this job")
    logs.add_argument("--attempt", type=int, help="which of its attempts (default: the newest)")
    _remote(logs)
    export = _of_search(commands, "export", client_commands.export, "fetch the model that a search ended in")
    export.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="a folder that is not there yet")
    _remote(export)
    does = "write a search as an Optuna study, which optuna-dashboard opens"
    study = _of_search(commands, "export-study", study_command.export_study, does)
    study.add_argument("--into", type=Path, required=True, metavar="FILE", help="a SQLite file that is not there yet")
    _remote(study)


def _add_lifecycle(commands: Commands) -> None:
    """What becomes of a search, or of a promotion, that a running service has."""
    ours = lifecycle_commands
    pause = _of_search(commands, "pause", ours.pause, "end what runs with a checkpoint, until the search is resumed")
    stop = _of_search(commands, "stop", ours.stop, "start nothing new of a search, until it is resumed")
    cancel = _of_search(commands, "cancel", ours.cancel, "end a search now; what was measured stays on record")
    resume = _of_search(commands, "resume", ours.resume, "go on with a search that was paused, stopped or cancelled")
    retry = _of_search(commands, "retry", ours.retry, "try again what has failed of a search")
    retry.add_argument("--candidate", type=_count, metavar="ID", help="only the trials of this one")
    extend = _of_search(
        commands, "extend", ours.extend, "add candidates, tokens or seeds to a search, or let it spend more"
    )
    extend.add_argument("--candidates", metavar="N", help="so many more shapes that fit the budget")
    extend.add_argument("--tokens", metavar="N", help="so many more tokens for every trial, or for the promotion")
    extend.add_argument("--seeds", metavar="N", help="so many more trials of every candidate, with other seeds")
    extend.add_argument(
        "--spending",
        nargs="+",
        action="extend",
        metavar="FIELD=VALUE",
        default=[],
        help="other limits from now on, such as device_hours=40; null takes one away",
    )
    for of_either in (pause, cancel, resume, retry, extend):
        of_either.add_argument("--promotion", type=_count, metavar="ID", help="of this promotion, not the whole search")
    clone = _of_search(commands, "clone", ours.clone, "begin a search like another")
    clone.add_argument("name", metavar="NAME", help="of the new search")
    clone.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="FIELD=VALUE",
        default=[],
        help="what is different in its spec, such as trial.tokens=1e9",
    )
    archive = _of_search(commands, "archive", ours.archive, "take a search out of the list; all else stays")
    unarchive = _of_search(commands, "unarchive", ours.unarchive, "put a search back into the list")
    delete = _of_search(commands, "delete", ours.delete, "delete a search with all that its jobs wrote")
    delete.add_argument("--yes", action="store_true", help="really; without it, only say what would be deleted")
    for child in (pause, stop, cancel, resume, retry, extend, clone, archive, unarchive, delete):
        _remote(child)


def _add_local(commands: Commands) -> None:
    """What needs no service."""
    run = _command(commands, "run", service_commands.run, "run one whole search here, without a service")
    run.set_defaults(again="the same command goes on from the newest checkpoints")
    run.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    run.add_argument(
        "--into", type=Path, help="folder for the database and all artifacts (default: NAME below TOPIARY_RUNS or runs)"
    )
    run.add_argument("--json", action="store_true", help="print the finished search as JSON")
    enumerate_ = _command(
        commands, "enumerate", service_commands.enumerate_, "list a spec's candidates with their costs; starts nothing"
    )
    enumerate_.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    enumerate_.add_argument("--limit", type=_count, default=256, help="how many to list (default: %(default)s)")
    enumerate_.add_argument("--offset", type=_count, default=0, help="how many to pass over (default: %(default)s)")
    enumerate_.add_argument("--json", action="store_true", help="print them as JSON")
    _add_plan(commands)
    _add_latency(commands)
    _add_prepare_data(commands)
    _add_importance(commands)
    _add_prune(commands)


def _add_plan(commands: Commands) -> None:
    does = "say what a spec's search would take with each strategy; starts nothing"
    plan = _command(commands, "plan", plan_command.plan, does)
    plan.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    plan.add_argument(
        "--devices", type=_size, metavar="N", help="how many there are (default: as many as run all trials at once)"
    )
    plan.add_argument(
        "--server", metavar="URL", help="ask this service, which knows what its devices achieve (default: ask none)"
    )
    plan.add_argument("--json", action="store_true", help="print it as JSON")


def _add_latency(commands: Commands) -> None:
    does = "time the blocks of a spec's candidates on this machine, for budget.latency"
    latency = _command(commands, "latency", latency_command.latency, does)
    latency.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    latency.add_argument("--into", type=Path, required=True, metavar="FILE", help="a file that is not there yet")
    latency.add_argument(
        "--phase", choices=("prefill", "decode", "both"), default="both", help="what to time (default: %(default)s)"
    )
    latency.add_argument(
        "--shapes",
        type=_count,
        metavar="N",
        default=latency_command.MOST_SHAPES,
        help="the most blocks to time (default: %(default)s)",
    )
    latency.add_argument(
        "--seconds",
        type=_seconds,
        default=latency_command.SECONDS,
        help="how long each forward pass is repeated, and at least 12 times (default: %(default)s)",
    )
    latency.add_argument("--ray-address", metavar="ADDRESS", help="time them on this Ray cluster, as host:port or auto")
    latency.add_argument("--json", action="store_true", help="print the table as JSON")


def _add_prepare_data(commands: Commands) -> None:
    does = "tokenise a spec's text as a search would, and say what comes of it"
    prepare = _command(commands, "prepare-data", prepare_data_command.prepare_data, does)
    prepare.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    prepare.add_argument(
        "--into", type=Path, metavar="FOLDER", help="keep it here, for data.prepared (default: nothing is kept)"
    )
    prepare.add_argument("--json", action="store_true", help="print what came of every source as JSON")


def _add_importance(commands: Commands) -> None:
    does = "score the layers, heads, neurons, experts and channels of a spec's teacher"
    importance = _command(commands, "importance", importance_command.importance, does)
    importance.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    importance.add_argument(
        "--into", type=Path, required=True, metavar="FILE", help="a file for the scores; one of the same is reused"
    )
    importance.add_argument("--figures", type=Path, metavar="FILE", help="draw them too, in this HTML file")
    importance.add_argument("--ray-address", metavar="ADDRESS", help="on this Ray cluster, as host:port or auto")
    importance.add_argument("--json", action="store_true", help="print what a page draws, as JSON")


_SIZES: dict[Axis, str] = {
    "num_hidden_layers": "layers",
    "hidden_size": "channels",
    "intermediate_size": "neurons of each MLP or expert",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key-value heads",
    "num_experts": "experts",
}


def _add_prune(commands: Commands) -> None:
    does = "cut one student out of a spec's teacher, and measure it; retrains nothing"
    prune = _command(commands, "prune", prune_command.prune, does)
    prune.add_argument("spec", type=Path, metavar="SPEC", help="a YAML or JSON file")
    prune.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="what topiary importance wrote (default: the teacher is scored first)",
    )
    prune.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="a folder that is not there yet")
    prune.add_argument("--figures", type=Path, metavar="FILE", help="draw the scores and the cut in this HTML file")
    for axis in AXES:
        option, what = prune_command.option_of(axis), _SIZES[axis]
        prune.add_argument(option, type=_size, metavar="N", help=f"how many {what} stay (default: the teacher's)")
    prune.add_argument("--ray-address", metavar="ADDRESS", help="on this Ray cluster, as host:port or auto")
    prune.add_argument("--json", action="store_true", help="print its loss, layers and folder as JSON")


def _size(given: str) -> int:
    """A whole number from 1 that an architecture can have."""
    if not given.isdecimal() or not 0 < int(given) < 2**31:
        raise argparse.ArgumentTypeError(f"{given} is not a whole number from 1 to {2**31 - 1}")
    return int(given)


def _days(given: str) -> float:
    """A time from 0 to a hundred years."""
    with suppress(ValueError):
        if 0 <= float(given) <= 36_525:
            return float(given)
    raise argparse.ArgumentTypeError(f"{given} is not a number of days from 0 to 36525")


def _seconds(given: str) -> float:
    """A time from 0 to a day."""
    with suppress(ValueError):
        if 0 <= float(given) <= 86_400:
            return float(given)
    raise argparse.ArgumentTypeError(f"{given} is not a number of seconds from 0 to 86400")


def _count(given: str) -> int:
    """A whole number from 0."""
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"{given} is not a whole number from 0")
    return int(given)


def _command(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int], does: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=does, description=does)
    parser.set_defaults(command=command)
    return parser


def _of_search(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int], does: str
) -> argparse.ArgumentParser:
    parser = _command(commands, name, command, does)
    parser.add_argument("search", metavar="SEARCH", help="its name")
    return parser


def _listening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="an address of this machine only (default: %(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for any free one (default: %(default)s)")


def _storage(parser: argparse.ArgumentParser, *, artifacts: bool = False, ray: bool = False) -> None:
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="of runs (default: TOPIARY_RUNS or runs)")
    parser.add_argument("--database", metavar="URL", help="(default: TOPIARY_DATABASE, or SQLite in the runs folder)")
    if artifacts:
        told = "where jobs keep their folders: a path, or such as s3://bucket/topiary"
        parser.add_argument("--artifacts", metavar="URL", help=f"{told} (default: TOPIARY_ARTIFACTS, or with the runs)")
    if ray:
        parser.add_argument(
            "--ray-address",
            metavar="ADDRESS",
            help="a running Ray cluster, as host:port or auto (default: TOPIARY_RAY_ADDRESS, or a Ray of its own)",
        )


def _remote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="URL", help="(default: TOPIARY_URL, or this machine's)")
    parser.add_argument("--json", action="store_true", help="print JSON")


if __name__ == "__main__":
    sys.exit(main())
