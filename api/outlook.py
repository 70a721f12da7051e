"""What comes next for a search, in a sentence: for the commands and the pages."""

from collections import Counter

from nas.spec import SpendingSpec
from nas.states import Intent, JobState, PromotionState, SearchState
from nas.views import SearchView

_SAVING = {"correct_teacher": "correction", "sweep": "sweep", "trial": "trial", "promotion": "promotion"}
"""The kinds of jobs that save their state when they are told to end, and what one is called."""


def outlook(view: SearchView) -> str:
    """What becomes of what runs, or what its user may do; empty where neither is to be told."""
    match view.state:
        case SearchState.RUNNING:
            return _coming(view)
        case SearchState.PAUSED | SearchState.STOPPED if (field := used_up(view)) is not None:
            more = f"`topiary extend {view.name} --spending {field}=MORE` allows more"
            return f"{view.reason or 'nothing of it runs'}; {more}, then `topiary resume {view.name}` goes on"
        case SearchState.PAUSED | SearchState.STOPPED:
            return f"nothing of it runs; `topiary resume {view.name}` goes on from its newest checkpoints"
        case SearchState.CANCELLED:
            return f"`topiary resume {view.name}` goes on from its newest checkpoints"
        case SearchState.FAILED:
            return f"{view.reason}; once the cause is mended, `topiary retry {view.name}` goes on"
        case SearchState.FINISHED:
            more = f"`topiary extend {view.name} --tokens MORE` retrains further and asks again"
            return "" if view.reason is None else f"{view.reason}; {more}"


def promotion_waited_for(view: SearchView) -> int | None:
    """The id of a paused promotion, if its search, though running, has nothing to do until that goes on."""
    paused = [each.id for each in view.promotions if each.state is PromotionState.PAUSED]
    held = {each.candidate_id for each in view.promotions if each.intent is not Intent.RUN}
    free = (job for job in view.jobs if job.kind not in ("promotion", "export") or job.candidate_id not in held)
    has_work = any(job.state in (JobState.QUEUED, JobState.RUNNING) for job in free)
    return None if has_work or not paused or view.state is not SearchState.RUNNING else paused[0]


def used_up(view: SearchView) -> str | None:
    """The first limit of what a search may spend that it has reached."""
    for field in SpendingSpec.model_fields:
        limit, used = getattr(view.spending, field), getattr(view.spent, field)
        if limit is not None and used is not None and used >= limit:
            return field
    return None


def _coming(view: SearchView) -> str:
    """What its user wants of a running search, as far as that is not done yet."""
    kinds = Counter(job.kind for job in view.jobs if job.state is JobState.RUNNING)
    one, several = _running(kinds), kinds.total() > 1
    match view.intent:
        case Intent.RUN:
            waited = promotion_waited_for(view)
            resume = f"`topiary resume {view.name} --promotion {waited}`"
            return "" if waited is None else f"promotion {waited} is paused; {resume} goes on with it"
        case Intent.STOP if view.reason is None:
            ending = f"{one} {'go on to their end' if several else 'goes on to its end'}, nothing new is started"
        case Intent.PAUSE | Intent.STOP if any(kinds[kind] for kind in _SAVING):
            ending = f"{one} {'save their state and end' if several else 'saves its state and ends'}"
        case Intent.PAUSE | Intent.STOP:
            ending = f"{one} {'end, to be begun anew' if several else 'ends, to be begun anew'}"
        case Intent.CANCEL:
            ending = f"{one} {'end' if several else 'ends'} now, without what was done since the last checkpoint"
    told = ending if kinds else "nothing of it runs, and nothing is started"
    return f"{view.reason}; {told}" if view.reason else told


def _running(kinds: Counter[str]) -> str:
    """As in `2 running trials and 1 running promotion`."""
    counts = Counter({name: kinds[kind] for kind, name in _SAVING.items() if kinds[kind]})
    others = kinds.total() - counts.total()
    counts += Counter({"job": others})
    return " and ".join(f"{count} running {name}{'s' * (count > 1)}" for name, count in counts.items())
