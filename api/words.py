"""Numbers and states as people read them, in the terminal and on the pages."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from nas.distillation_spec import DistillationSpec
from nas.jobs import JobProgress
from nas.rank_stability import RankMovement
from nas.ranking import Standing
from nas.states import Intent, JobState, PromotionState, SearchState, TrialState
from nas.training_views import CorrectionView, SweepView
from nas.views import JobView, PromotionView, SearchView

PHASES = {
    "prepare_data": "tokenising the text",
    "correct_teacher": "correcting the teacher",
    "calibrate": "ranking layers, heads, neurons and channels",
    "merge_scores": "adding up the shards' scores",
    "cache_teacher": "asking the teacher once for all candidates",
    "sweep": "trying learning rates on one candidate",
    "trial": "retraining candidates",
    "evaluate": "putting questions to the best candidates",
    "promotion": "distilling the winner",
    "export": "exporting",
}
EARLY = ("prepare_data", "correct_teacher", "calibrate", "merge_scores", "cache_teacher")
"""The jobs that come before any token of retraining."""

TRIALS = {
    TrialState.SUCCEEDED: "retrained",
    TrialState.STOPPED: "stopped",
    TrialState.RUNNING: "running",
    TrialState.QUEUED: "queued",
    TrialState.WAITING: "waiting",
    TrialState.FAILED: "failed",
    TrialState.CANCELLED: "cancelled",
}


_COMING = {Intent.PAUSE: "pausing", Intent.STOP: "stopping", Intent.CANCEL: "cancelling"}


def loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def gap(value: float) -> str:
    """A difference of losses, never rounded down to none."""
    return "less than 0.001" if 0 < value < 0.001 else loss(value)


def parameters(value: int | None) -> str:
    """`8.27 B`, `3.94 M`; small counts in full."""
    return "" if value is None else _scaled(value, smallest=100_000)


def tokens(value: int) -> str:
    """`1.89 B`, `1.05 M`; small counts in full."""
    return _scaled(value, smallest=1_000_000)


def size(value: float, unit: str) -> str:
    """`7.87 MB`, `537 kB`, for any unit that takes decimal prefixes: three digits tell candidates apart."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {prefix}{unit}"
    return f"{value:,.0f} {unit}"


def taught_by(distillation: DistillationSpec) -> str:
    """`forward KL on logits; cosine of embedding, block output`, of a spec with nothing left to `auto`."""
    names = {"mse": "MSE", "forward_kl": "forward KL", "reverse_kl": "reverse KL"}

    def name(of: str) -> str:
        return names.get(of, of.replace("_", " "))

    parts = [] if distillation.logits == "none" else [f"{name(distillation.logits)} on logits"]
    if distillation.temperature != 1:
        parts.append(f"at temperature {distillation.temperature:g}")
    if distillation.top_k is not None:
        parts.append(f"of the top {distillation.top_k}")
    told = [" ".join(parts)] if parts else []
    if distillation.named_terms:
        told.append(f"{name(distillation.hidden_loss)} of {', '.join(map(name, distillation.named_terms))}")
    if distillation.language_modeling:
        told.append(f"{distillation.language_modeling:g} of the text's own cross-entropy")
    return "; ".join(told)


def percent(done: float, total: float) -> str:
    """Rounded down, so that 100 % is only what is done."""
    return f"{int(100 * done / total) if total else 0} %"


def about(seconds: float) -> str:
    """A time as coarse as an estimate of it is: `50 s`, `4 min`, `2 h 10 min`, `3 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{max(10, 10 * round(seconds / 10))} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"


def duration(seconds: float) -> str:
    """A time that has passed: `48 s`, `3 min 20 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for big, seconds_big, small, seconds_small in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= seconds_big:
            return f"{whole // seconds_big} {big} {whole % seconds_big // seconds_small} {small}"
    return f"{whole} s"


def exact(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def state(state: SearchState, intent: Intent) -> str:
    """The state of a search, or what a running one is being brought to: `pausing`, `stopping`, `cancelling`."""
    return _COMING[intent] if state is SearchState.RUNNING and intent in _COMING else state.value


def rank(row: Standing) -> str:
    """`3`, or `3=` where it cannot be told apart from others."""
    if row.rank is None:
        return ""
    return f"{row.rank}=" if row.ties is not None and row.ties[0] < row.ties[1] else str(row.rank)


def tie(row: Standing) -> str:
    """`ranks 1 to 3 cannot be told apart`; empty where there is no tie."""
    if row.ties is None or row.ties[0] == row.ties[1]:
        return ""
    return f"ranks {row.ties[0]} to {row.ties[1]} cannot be told apart"


def behind(row: Standing) -> str:
    """How sure its distance to the best is: `± 0.0041 nats in its difference to the best`; empty where not known."""
    return "" if not row.error else f"± {row.error:.4f} nats in its difference to the best"


def movements(found: Sequence[RankMovement]) -> str:
    """How the order changed from measurement to measurement, the last eight: `0.35, 0.81, 0.95`; empty without any."""
    return ", ".join(f"{each.tau:.2f}" for each in found[-8:])


def probability(row: Standing) -> str:
    """Of being the best: `62 %`; empty where it was not worked out."""
    if row.probability_best is None:
        return ""
    return "< 1 %" if row.probability_best < 0.01 else percent(row.probability_best, 1)


def trial(row: Standing, job: JobView | None) -> str:
    """The state of a trial, with how far it is while it runs."""
    progress = None if job is None else job.progress
    # Before it trains, a trial may score what earlier rounds have left, which is counted in another unit.
    if row.state is TrialState.RUNNING and progress is not None and progress.unit == "tokens":
        return f"running {percent(progress.done, progress.total)}"
    return TRIALS[row.state]


def correction(view: CorrectionView) -> str:
    """`2.731 before its correction by 1.05 M tokens`, of the teacher's loss."""
    return f"{loss(view.loss_before)} before its correction by {tokens(view.tokens)} tokens"


def sweep(view: SweepView) -> str:
    """What was tried: `0.0002 of 0.0001 (3.412), 0.0002 (3.307), 0.0004 (diverged), tried on 6 x 192 x 320 x 4/2`."""
    losses = [f"{each.rate:g} ({'diverged' if each.loss is None else loss(each.loss)})" for each in view.rates]
    return f"{view.chosen:g} of {', '.join(losses)}, tried on {view.architecture.label}"


def telemetry(told: Sequence[JobProgress]) -> str:
    """How retraining goes, of several jobs together: `12,300 tokens/s, 1.32 TFLOP/s, 2.10 GB, 1 % waiting for text`.

    The share of waiting is the largest of any.
    """
    told = [each for each in told if each.unit == "tokens" and each.per_second > 0]
    if not told:
        return ""
    parts = [f"{sum(each.per_second for each in told):,.0f} tokens/s"]
    if flops := sum(each.flops_per_second or 0 for each in told):
        parts.append(size(flops, "FLOP/s"))
    if memory := sum(each.memory_bytes or 0 for each in told):
        parts.append(size(memory, "B"))
    waits = [each.data_wait for each in told if each.data_wait is not None]
    if waits:
        parts.append(f"{percent(max(waits), 1)} waiting for text")
    return ", ".join(parts)


def waiting(job: JobView) -> str | None:
    """Why a queued job waits, where more is to be told than that others come first."""
    told = [job.reason] if job.reason else []
    told += [f"tried again at {exact(job.not_before)} at the earliest"] if job.not_before else []
    return "; ".join(told) if told and job.state is JobState.QUEUED else None


def promotion(view: PromotionView, search: SearchState) -> str:
    """The state of a promotion of a search in some state, or what it is being brought to."""
    if view.state not in (PromotionState.DISTILLING, PromotionState.EXPORTING):
        return view.state.value
    if search is not SearchState.RUNNING:
        return "waiting"
    return _COMING.get(view.intent, view.state.value)


def amount(value: float) -> str:
    """Of hours or money: `0.42`, `12.4`, `1,371`."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def counts(view: SearchView) -> str:
    """`6 of 10 retrained, 2 running, 1 failed`."""
    states = Counter(row.state for row in view.leaderboard)
    told = [f"{states.pop(TrialState.SUCCEEDED, 0)} of {len(view.leaderboard)} retrained"]
    return ", ".join(told + [f"{states[state]} {word}" for state, word in TRIALS.items() if states[state]])


def _scaled(value: int, *, smallest: int) -> str:
    if value >= 1_000_000_000:
        return f"{value / 1e9:.2f} B"
    return f"{value / 1e6:.2f} M" if value >= smallest else f"{value:,}"
