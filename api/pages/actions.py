"""What a page offers to do to a search or a promotion: what makes sense in its state, as buttons."""

from dataclasses import dataclass

from nas.states import Intent, JobState, PromotionState, SearchState
from nas.views import PromotionView, SearchView


@dataclass(frozen=True)
class Action:
    """A verb of REST, the word on its button, and what it does; `loses` says what is lost by it, if anything is."""

    verb: str
    label: str
    does: str
    loses: str = ""


_PAUSE = Action("pause", "Pause", "What runs saves its state and ends; the search waits until it is resumed.")
_STOP = Action("stop", "Stop", "What runs goes on to its end; nothing new is started until the search is resumed.")
_RESUME = Action("resume", "Resume", "It goes on from its newest checkpoints.")
_RETRY = Action("retry", "Retry failed", "What has failed is tried again.")
_ARCHIVE = Action("archive", "Archive", "The list of searches does not show it any more; all else stays.")
_UNARCHIVE = Action("unarchive", "Unarchive", "The list of searches shows it again.")
_CANCEL = Action(
    "cancel",
    "Cancel",
    "It ends now.",
    "What runs now is ended, and what it did since its last checkpoint is lost. Everything measured stays on record, "
    "and the search can be resumed later.",
)
_WAITING = (SearchState.PAUSED, SearchState.STOPPED)

_PAUSE_ONE = Action("pause", "Pause", "It saves its state and ends, and waits until it is resumed.")
_RESUME_ONE = Action("resume", "Resume", "It goes on from its newest checkpoint.")
_RETRY_ONE = Action("retry", "Retry", "What has failed of it is tried again.")
_CANCEL_ONE = Action(
    "cancel",
    "Cancel",
    "It ends now.",
    "What it did since its last checkpoint is lost, and the search ends without its model. It can be resumed later.",
)


def of_search(view: SearchView) -> list[Action]:
    """In the order in which they are shown."""
    running = view.state is SearchState.RUNNING
    if running and view.intent is Intent.CANCEL:
        return []
    is_held = view.state in _WAITING or (running and view.intent is not Intent.RUN)
    has_failed = any(job.state is JobState.FAILED for job in view.jobs)
    shown = {
        _RESUME: view.state is SearchState.CANCELLED or is_held,
        _PAUSE: running and view.intent is not Intent.PAUSE,
        _STOP: running and view.intent is Intent.RUN,
        _RETRY: view.state is SearchState.FAILED or (has_failed and view.state is not SearchState.CANCELLED),
        _CANCEL: running or view.state in _WAITING,
        _ARCHIVE: not running and view.archived_at is None,
        _UNARCHIVE: view.archived_at is not None,
    }
    return [action for action, makes_sense in shown.items() if makes_sense]


def of_promotion(promotion: PromotionView, search: SearchState) -> list[Action]:
    """Of one whose search is in this state; a search that was cancelled is resumed first."""
    if search is SearchState.CANCELLED:
        return []
    match promotion.state:
        case PromotionState.FINISHED:
            return []
        case PromotionState.FAILED:
            return [_RETRY_ONE, _CANCEL_ONE]
        case PromotionState.CANCELLED:
            return [_RESUME_ONE]
    held = promotion.intent is not Intent.RUN
    return [_RESUME_ONE if held else _PAUSE_ONE, _CANCEL_ONE]
