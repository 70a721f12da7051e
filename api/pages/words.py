"""Numbers and states as people read them."""

from collections import Counter
from datetime import UTC, datetime

from nas.ranking import Standing
from nas.states import TrialState
from nas.views import JobView, SearchView

NO_BREAK = "\u00a0"
PHASES = {
    "prepare_data": "tokenising the text",
    "calibrate": "ranking layers, heads, neurons and channels",
    "trial": "retraining candidates",
    "promotion": "distilling the winner",
    "export": "exporting",
}
TRIALS = {
    TrialState.SUCCEEDED: "retrained",
    TrialState.RUNNING: "running",
    TrialState.QUEUED: "queued",
    TrialState.WAITING: "waiting",
    TrialState.FAILED: "failed",
    TrialState.CANCELLED: "cancelled",
}


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
    """`7.87 MB`, for any unit that takes decimal prefixes."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f}{NO_BREAK}{prefix}{unit}"
    return f"{value:,.0f}{NO_BREAK}{unit}"


def percent(done: float, total: float) -> str:
    """Rounded down, so that 100 % is only what is done."""
    return f"{int(100 * done / total) if total else 0}{NO_BREAK}%"


def about(seconds: float) -> str:
    """A time as coarse as an estimate of it is: `50 s`, `4 min`, `2 h 10 min`, `3 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{max(10, 10 * round(seconds / 10))}{NO_BREAK}s"
    if minutes < 60:
        return f"{minutes}{NO_BREAK}min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}{NO_BREAK}h {minutes}{NO_BREAK}min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days}{NO_BREAK}d {hours}{NO_BREAK}h"


def exact(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def trial(row: Standing, job: JobView | None) -> str:
    """The state of a trial, with how far it is while it runs."""
    if row.state is TrialState.RUNNING and job is not None and job.progress is not None:
        return f"running {percent(job.progress.done, job.progress.total)}"
    return TRIALS[row.state]


def counts(view: SearchView) -> str:
    """`6 of 10 retrained, 2 running, 1 failed`."""
    states = Counter(row.state for row in view.leaderboard)
    told = [f"{states.pop(TrialState.SUCCEEDED, 0)} of {len(view.leaderboard)} retrained"]
    return ", ".join(told + [f"{states[state]} {word}" for state, word in TRIALS.items() if states[state]])


def _scaled(value: int, *, smallest: int) -> str:
    if value >= 1_000_000_000:
        return f"{value / 1e9:.2f}{NO_BREAK}B"
    return f"{value / 1e6:.2f}{NO_BREAK}M" if value >= smallest else f"{value:,}"
