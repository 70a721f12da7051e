"""Planning a search: its candidates, what its devices achieve, and the plan that follows."""

from collections.abc import Sequence

from api.services.submission import check_depths, enumerate_spec
from api.store.database import Database
from api.store.throughput import EndedRun, ended_runs
from nas.errors import SpecError
from nas.plan import MOST_CHANGE, PlanView, Throughput, mean_flops_per_token, plan
from nas.spec import MOST_CANDIDATES, SearchSpec
from nas.training_cost import flops_per_token

_MOST_RUNS = 200
"""Of trials, and of promotions, the newest."""


def plan_search(spec: SearchSpec, *, database: Database | None = None, devices: int | None = None) -> PlanView:
    """What a search of the spec will take; starts nothing.

    With a database, at the throughput of runs of like size that have ended there, if any have; else at the spec's.
    Raises UserError for what submitting would refuse (but text, which is not looked at), and as nas.plan.plan does.
    """
    found = enumerate_spec(spec, limit=spec.sample_size or MOST_CANDIDATES)
    if spec.sample_size is None and found.num_fitting > MOST_CANDIDATES:
        problem = f"is given, but {found.num_fitting:,} shapes fit the budget"
        raise SpecError("sample_size", "nothing", problem, f"a number of them to try, such as {MOST_CANDIDATES}")
    candidates = [each.architecture for each in found.candidates]
    check_depths(spec, found.teacher, {each.num_hidden_layers for each in candidates})
    measured = None
    if database is not None:
        with database.reading() as session:
            runs = ended_runs(session, _MOST_RUNS)
        measured = throughput_of(runs, mean_flops_per_token(spec, found.teacher, candidates))
    return plan(spec, found.teacher, candidates, throughput=measured, devices=devices)


def throughput_of(runs: Sequence[EndedRun], per_token: float) -> Throughput | None:
    """FLOPs by device seconds of the runs whose FLOPs per token are near `per_token`; None where there are none.

    Loading, measuring and lost attempts are in the seconds: this is what a device comes to, not what it peaks at.
    """
    flops = seconds = 0.0
    num_runs = 0
    for run in runs:
        of_token = flops_per_token(run.student, run.teacher, run.sequence_length)
        if per_token / MOST_CHANGE <= of_token <= per_token * MOST_CHANGE:
            flops, seconds, num_runs = flops + of_token * run.tokens, seconds + run.device_seconds, num_runs + 1
    if not num_runs:
        return None
    return Throughput(flops_per_second=flops / seconds, throughput_from="measured", num_runs=num_runs)
