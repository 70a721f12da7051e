"""A plan: what a search will take of tokens, devices, hours and money with each strategy, before anything is spent."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from statistics import fmean
from typing import Literal, get_args

from nas.architecture import Architecture, sizes_of
from nas.border import Border
from nas.cost import CostModel
from nas.errors import SettingError, SpecError
from nas.halving import num_going_on
from nas.racing import EARLIEST
from nas.spec import SearchSpec
from nas.strategies import finalists, ladder
from nas.strategy_spec import StrategyKind
from nas.training_cost import FREE_SHARE, Retraining, TrainingCost, flops_per_token
from nas.training_spec import RunSpec, TrainingSpec, TrialSpec

RACING_SHARE = 0.36
"""Of the tokens of exhaustive: the mean that benchmarks.search_regret measures on its landscapes, of 24 candidates with
the first rung at a quarter."""
_RACED, _FIRST_RUNG = 24, 0.25

MOST_DEVICES = 8
"""A job runs on one node, and nodes hold no more."""

MOST_CHANGE = 10
"""What runs have achieved is believed for runs that take up to so many times more or fewer FLOPs per token."""


class Throughput(Border):
    """What one device achieves in training: as the spec says, or as measured over so many runs."""

    flops_per_second: float
    throughput_from: Literal["spec", "measured"] = "spec"
    num_runs: int = 0


class Outlay(Border):
    """What something takes, estimated. `money` is None where a device has no price."""

    tokens: int
    device_hours: float
    money: float | None
    wall_hours: float

    def __add__(self, other: "Outlay") -> "Outlay":
        """Of one after the other."""
        return Outlay(
            tokens=self.tokens + other.tokens,
            device_hours=self.device_hours + other.device_hours,
            money=None if self.money is None or other.money is None else self.money + other.money,
            wall_hours=self.wall_hours + other.wall_hours,
        )


class Stretch(Border):
    """The way from one rung, or the beginning, to the next, or the end at `until_tokens` of each trial.

    `candidates` are on it: as expected where that cannot be known before, else exactly.
    """

    until_tokens: int
    candidates: float


class StrategyPlan(Border):
    """The trials under one strategy. `fewest` and `most` are apart from `expected` only where losses decide.

    `share` is that of `expected` in the tokens of exhaustive. `in_all` is `expected` with all beside the trials.
    """

    kind: StrategyKind
    is_chosen: bool
    stretches: tuple[Stretch, ...]
    fewest: Outlay
    expected: Outlay
    most: Outlay
    share: float
    in_all: Outlay


class BesideView(Border):
    """What a search takes beside its trials, in `num_runs` runs."""

    kind: Literal["correction", "teacher_answers", "sweep", "promotion"]
    num_runs: int
    outlay: Outlay


class PlanView(Border):
    """What a search of a spec will take, estimated; nothing is started.

    Hours are those of the FLOPs of training, of the teacher too where it runs, at `flops_per_second` of each device:
    the spec's, or `measured` over `num_runs` trials and promotions of this service. Wall hours are with `devices`, on
    which trials run in rounds; `devices_needed` let all trials run at once. One job takes `devices_of_a_job` with its
    weights spread over them, or one of `memory_bytes_alone`. `num_too_large` candidates are held by no node. Preparing
    text, calibration, measuring and exporting are not counted.
    """

    name: str
    num_candidates: int
    trial_tokens: int
    trial_device_hours: float
    flops_per_second: float
    throughput_from: Literal["spec", "measured"]
    num_runs: int
    devices: int
    devices_needed: int
    devices_of_a_job: int
    memory_bytes_alone: int
    num_too_large: int
    strategies: tuple[StrategyPlan, ...]
    beside: tuple[BesideView, ...]

    @property
    def chosen(self) -> StrategyPlan:
        """That of the spec's own strategy."""
        return next(each for each in self.strategies if each.is_chosen)


def plan(
    spec: SearchSpec,
    teacher: Architecture,
    candidates: Sequence[Architecture],
    *,
    throughput: Throughput | None = None,
    devices: int | None = None,
) -> PlanView:
    """The plan of a search of these candidates, on `devices_needed` and at the spec's throughput unless told otherwise.

    Raises SpecError where no node of the spec's hardware holds a run of even the smallest candidate, and SettingError
    for fewer devices than one job takes.
    """
    return _Plan(spec, teacher, candidates, throughput, devices).view()


def mean_flops_per_token(spec: SearchSpec, teacher: Architecture, candidates: Sequence[Architecture]) -> float:
    """Of a trial, the teacher's included where it runs."""
    beside = teacher if spec.trial.targets == "live" else None
    return fmean(flops_per_token(each, beside, spec.data.sequence_length) for each in candidates)


# --- how many candidates are where --------------------------------------------------------------------------


def course(spec: SearchSpec, kind: StrategyKind, num_candidates: int, staying: float | None = None) -> list[Stretch]:
    """The stretches of a strategy; of racing, with so large a share of the others staying beside the finalists."""
    strategy = spec.strategy.model_copy(update={"kind": kind, "reject_behind": None})
    end = spec.trial.actual_tokens(spec.data.sequence_length)
    rungs = ladder(spec.model_copy(update={"strategy": strategy}), [end]).rungs
    found: list[Stretch] = []
    going, kept = float(num_candidates), min(finalists(spec), num_candidates)
    for tokens in (*rungs, end):
        found.append(Stretch(until_tokens=tokens, candidates=going))
        if kind == "halving":
            going = max(num_going_on(round(going), spec.strategy.keep), kept)
        elif _has_line(spec, rungs, tokens):
            going = kept + (num_candidates - kept) * (_staying() if staying is None else staying)
    return found


def _has_line(spec: SearchSpec, rungs: Sequence[int], place: int) -> bool:
    """Whether there are two measurements to draw a line through, before which nobody leaves a race."""
    length = spec.data.sequence_length
    per_step = spec.trial.batch_size * length
    points = {step * per_step for step in spec.trial.measuring_steps(length)} | set(rungs)
    return sum(place * EARLIEST <= tokens <= place for tokens in points) > 1


def _staying() -> float:
    """The share of all but the best that go on from the first rung, by which RACING_SHARE comes about."""
    alone = _FIRST_RUNG + (1 - _FIRST_RUNG) / _RACED
    return (RACING_SHARE - alone) / (1 - alone)


# --- what that takes ----------------------------------------------------------------------------------------


class _Runs:
    """Equal runs for several students: the mean and the longest in device-hours, and the devices that hold each."""

    def __init__(self, plan: "_Plan", field: str, training: TrainingSpec, students: Sequence[Architecture]) -> None:
        costs = [plan.retraining(training).cost(each) for each in students]
        held = [cost.estimate.devices or MOST_DEVICES + 1 for cost in costs]
        fitting = [number for number in held if number <= MOST_DEVICES]
        # With a device of any size, which then holds all.
        alone = [plan.retraining(training, memory_bytes=1e30).cost(each).estimate.memory_bytes for each in students]
        if not fitting:
            raise _too_small(plan.spec, field, students[alone.index(min(alone))], min(alone))
        self.tokens, self.costs = costs[0].tokens, costs
        self.devices, self.num_too_large = max(fitting), len(held) - len(fitting)
        self.memory_alone = ceil(max(alone) / (1 - FREE_SHARE))
        self.mean, self.longest = fmean(map(_hours, costs)), max(map(_hours, costs))


def _hours(cost: TrainingCost) -> float:
    return cost.estimate.device_hours


def _too_small(spec: SearchSpec, field: str, student: Architecture, alone: int) -> SpecError:
    problem = (
        f"bytes hold no {field} of even the smallest candidate, {student.label}, on {MOST_DEVICES} devices of a node"
    )
    needed = ceil(alone / (1 - FREE_SHARE))
    accepted = (
        f"{needed:,} bytes, which hold it on one, or a {field} of smaller micro_batch_size or gradient_checkpointing"
    )
    return SpecError("hardware.memory_bytes", f"{spec.hardware.memory_bytes:,.0f}", problem, accepted)


class _Plan:
    """The runs of a search, and how they are laid out on devices."""

    def __init__(
        self,
        spec: SearchSpec,
        teacher: Architecture,
        candidates: Sequence[Architecture],
        throughput: Throughput | None,
        devices: int | None,
    ) -> None:
        self.spec, self._teacher, self._candidates = spec, teacher, candidates
        self._throughput = throughput or Throughput(flops_per_second=spec.hardware.flops_per_second)
        self._trials = _Runs(self, "trial", spec.trial, candidates)
        self._promotions = _Runs(self, "promotion", spec.promotion, candidates) if spec.promotion.winners else None
        correction = None if spec.correction is None else _alone(spec.correction)
        self._correction = None if correction is None else _Runs(self, "correction", correction, [teacher])
        every = [each for each in (self._trials, self._promotions, self._correction) if each is not None]
        self._of_a_job = max(each.devices for each in every)
        self._alone = max(each.memory_alone for each in every)
        self._needed = max(self._of_a_job, len(candidates) * self._trials.devices)
        self._devices = self._needed if devices is None else devices
        if self._devices < self._of_a_job:
            problem = f"hold no job that takes {self._of_a_job}"
            raise SettingError("devices", self._devices, problem, f"{self._of_a_job} or more")

    def retraining(self, training: TrainingSpec, **hardware: float) -> Retraining:
        """At the plan's throughput."""
        told = {"flops_per_second": self._throughput.flops_per_second, **hardware}
        device = self.spec.hardware.model_copy(update=told)
        return Retraining(self._teacher, training, device, self.spec.data.sequence_length)

    def view(self) -> PlanView:
        beside = tuple(self._beside())
        return PlanView(
            name=self.spec.name,
            num_candidates=len(self._candidates),
            trial_tokens=self._trials.tokens,
            trial_device_hours=self._trials.mean,
            **self._throughput.model_dump(),
            devices=self._devices,
            devices_needed=self._needed,
            devices_of_a_job=self._of_a_job,
            memory_bytes_alone=self._alone,
            num_too_large=max(self._trials.num_too_large, self._promotions.num_too_large if self._promotions else 0),
            strategies=tuple(self._strategy(kind, beside) for kind in get_args(StrategyKind)),
            beside=beside,
        )

    # --- trials ---

    def _strategy(self, kind: StrategyKind, beside: Sequence[BesideView]) -> StrategyPlan:
        number = len(self._candidates)
        expected = course(self.spec, kind, number)
        outlay, everything = self._outlay(expected), self._outlay(course(self.spec, "exhaustive", number))
        fewest, most = (self._outlay(course(self.spec, kind, number, staying)) for staying in (0.0, 1.0))
        if kind == "tpe":
            outlay = fewest = most = outlay.model_copy(update={"wall_hours": self._wall_in_batches(number)})
        return StrategyPlan(
            kind=kind,
            is_chosen=kind == self.spec.strategy.kind,
            stretches=tuple(expected),
            fewest=fewest,
            expected=outlay,
            most=most,
            share=outlay.tokens / everything.tokens,
            in_all=sum((each.outlay for each in beside), start=outlay),
        )

    def _outlay(self, stretches: Sequence[Stretch]) -> Outlay:
        """Of trials that go from stretch to stretch together, each in rounds where devices are fewer."""
        tokens = wall = 0.0
        slots = self._devices // self._trials.devices
        ends = [0, *(stretch.until_tokens for stretch in stretches)]
        for stretch, (begin, end) in zip(stretches, pairwise(ends), strict=True):
            tokens += stretch.candidates * (end - begin)
            rounds = ceil(ceil(stretch.candidates) / slots)
            # Which trials go on is not known: in one round the longest counts, in several their mean.
            hours = max(self._trials.longest, rounds * self._trials.mean) / self._trials.devices
            wall += hours * (end - begin) / self._trials.tokens
        return self._of_hours(round(tokens), self._trials.mean * tokens / self._trials.tokens, wall)

    def _wall_in_batches(self, number: int) -> float:
        """Of trials to the end: those drawn first, then batch by batch, each when the one before has ended."""
        strategy, slots = self.spec.strategy, self._devices // self._trials.devices
        first = min(strategy.startup, number)
        full, rest = divmod(number - first, strategy.batch)
        batches = [first, *[strategy.batch] * full, *([rest] if rest else [])]
        rounds = sum(ceil(batch / slots) for batch in batches)
        return max(self._trials.longest, rounds * self._trials.mean) / self._trials.devices

    # --- beside them ---

    def _beside(self) -> list[BesideView]:
        spec, found = self.spec, list[BesideView]()
        if spec.correction is not None and self._correction is not None:
            found.append(self._in_rounds("correction", 1, self._correction))
        if spec.trial.targets != "live":
            found.append(self._answers())
        if spec.trial.learning_rates:
            found.append(self._sweep())
        if self._promotions is not None:
            number = min(spec.promotion.winners, len(self._candidates))
            found.append(self._in_rounds("promotion", number, self._promotions))
        return found

    def _answers(self) -> BesideView:
        """The teacher's forward pass over what the trials see."""
        length, tokens = self.spec.data.sequence_length, self._trials.tokens
        flops = tokens // length * CostModel(self._teacher).prefill_flops(length).at(sizes_of(self._teacher))
        hours = flops / self._throughput.flops_per_second / 3600
        return BesideView(kind="teacher_answers", num_runs=1, outlay=self._of_hours(tokens, hours, hours))

    def _sweep(self) -> BesideView:
        """One job: a trial of the candidate in the middle at each rate, one after another."""
        number, trials = len(self.spec.trial.learning_rates), self._trials
        middle = sorted(map(_hours, trials.costs))[(len(trials.costs) - 1) // 2]
        outlay = self._of_hours(number * trials.tokens, number * middle, number * middle / trials.devices)
        return BesideView(kind="sweep", num_runs=number, outlay=outlay)

    def _in_rounds(self, kind: Literal["correction", "promotion"], number: int, runs: _Runs) -> BesideView:
        """Which candidates win is not known: their mean counts."""
        rounds = ceil(number / (self._devices // runs.devices))
        outlay = self._of_hours(number * runs.tokens, number * runs.mean, rounds * runs.mean / runs.devices)
        return BesideView(kind=kind, num_runs=number, outlay=outlay)

    def _of_hours(self, tokens: int, device_hours: float, wall_hours: float) -> Outlay:
        price = self.spec.hardware.price_per_hour
        money = None if price is None else device_hours * price
        return Outlay(tokens=tokens, device_hours=device_hours, money=money, wall_hours=wall_hours)


def _alone(run: RunSpec) -> TrainingSpec:
    """The same run without a teacher beside it: what is corrected is the teacher itself."""
    same = {name: getattr(run, name) for name in ("tokens", "batch_size", "micro_batch_size", "gradient_checkpointing")}
    return TrialSpec(**same, targets="sampled")
