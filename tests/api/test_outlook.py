"""What comes next, in a sentence: for every state and wish, and what runs."""

import pytest

from api.outlook import outlook
from nas.spec import SpendingSpec
from nas.states import Intent, JobState, PromotionState, SearchState
from nas.views import JobView
from tests.api.test_pages import job, promotion
from tests.nas.test_figures import LOSSES, search

TRIALS = (job(4), job(5), job(6, state=JobState.QUEUED))
ONE = (job(4),)
BOTH = (*TRIALS, job(7, "promotion"))
EARLY = (job(None, "calibrate"),)

COMING = [
    (Intent.PAUSE, TRIALS, "2 running trials save their state and end"),
    (Intent.PAUSE, ONE, "1 running trial saves its state and ends"),
    (Intent.PAUSE, BOTH, "2 running trials and 1 running promotion save their state and end"),
    (Intent.PAUSE, EARLY, "1 running job ends, to be begun anew"),
    (Intent.PAUSE, (), "nothing of it runs, and nothing is started"),
    (Intent.STOP, TRIALS, "2 running trials go on to their end, nothing new is started"),
    (Intent.STOP, EARLY, "1 running job goes on to its end, nothing new is started"),
    (Intent.CANCEL, ONE, "1 running trial ends now, without what was done since the last checkpoint"),
    (Intent.RUN, ONE, ""),
]


@pytest.mark.parametrize(("intent", "jobs", "sentence"), COMING, ids=range(len(COMING)))
def test_what_a_user_wants_of_what_runs(intent: Intent, jobs: tuple[JobView, ...], sentence: str) -> None:
    assert outlook(search(LOSSES, intent=intent, jobs=jobs)) == sentence


def test_what_stops_a_search_is_told_before_what_becomes_of_it() -> None:
    stopping = search(LOSSES, intent=Intent.STOP, reason="spending.tokens: 9 of 8 are used", jobs=ONE)
    assert outlook(stopping) == "spending.tokens: 9 of 8 are used; 1 running trial saves its state and ends"


def test_what_waits_says_how_it_goes_on() -> None:
    resume = "`topiary resume a-search` goes on"
    for state in (SearchState.PAUSED, SearchState.STOPPED, SearchState.CANCELLED):
        assert outlook(search(LOSSES, state=state)).endswith(f"{resume} from its newest checkpoints")
    reason, few, more = "spending.tokens: 10 of 8 are used", SpendingSpec(tokens=8), SpendingSpec(tokens=11)
    stopped = search(LOSSES, state=SearchState.STOPPED, intent=Intent.STOP, reason=reason, spending=few)
    assert outlook(stopped) == (
        f"{reason}; `topiary extend a-search --spending tokens=MORE` allows more, then {resume}"
    )
    extended = stopped.model_copy(update={"spending": more})
    assert outlook(extended) == f"nothing of it runs; {resume} from its newest checkpoints"
    assert "`topiary retry a-search`" in outlook(search(LOSSES, state=SearchState.FAILED, reason="it broke"))
    assert outlook(search(LOSSES, state=SearchState.FINISHED)) == ""


def test_a_search_waits_for_a_paused_promotion_only_where_nothing_else_is_left() -> None:
    paused = promotion(state=PromotionState.PAUSED, intent=Intent.PAUSE)
    queued = job(5, "promotion", state=JobState.QUEUED)
    view = search(LOSSES, promotions=(paused,), jobs=(queued,))
    assert outlook(view) == "promotion 3 is paused; `topiary resume a-search --promotion 3` goes on with it"
    for other in (job(6), job(6, "promotion", state=JobState.QUEUED)):
        assert outlook(view.model_copy(update={"jobs": (queued, other)})) == ""
