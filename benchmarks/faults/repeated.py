"""Tokens that were trained again, as the folders of the attempts tell."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from nas.spec import SearchSpec
from nas.states import AttemptState
from nas.views import AttemptView


def repeated_tokens(attempts: Iterable[AttemptView], spec: SearchSpec) -> int:
    """Of all trials and promotions, the tokens of steps that were begun more than once.

    An attempt that was cut off had reached the last step that its progress, or its newest checkpoint, tells of, and was
    at work on the next; the one after it began behind the newest whole checkpoint of them all.
    """
    of_job: dict[int, list[AttemptView]] = defaultdict(list)
    for attempt in attempts:
        if attempt.kind in ("trial", "promotion"):
            of_job[attempt.job_id].append(attempt)
    return sum(_of_job(own, spec) for own in of_job.values())


def _of_job(attempts: list[AttemptView], spec: SearchSpec) -> int:
    training = spec.trial if attempts[0].kind == "trial" else spec.promotion
    tokens_per_step = training.batch_size * spec.data.sequence_length
    last, saved, repeated = training.num_steps(spec.data.sequence_length), 0, 0
    for attempt in attempts:
        folder = Path(attempt.folder)
        began, saved = saved, max(saved, _saved(folder))
        if attempt.state is AttemptState.SUCCEEDED or not any(folder.glob("measurements/??????.json")):
            continue  # Nobody came after it, or it had not begun to train.
        reached = max(began, saved, _begun(folder), _told(folder) // tokens_per_step)
        repeated += min(reached + 1, last) - saved
    return repeated * tokens_per_step


def _saved(folder: Path) -> int:
    """The step of its newest whole checkpoint."""
    return max((int(each.name.removeprefix("step-")) for each in folder.glob("checkpoints/step-?????????")), default=0)


def _begun(folder: Path) -> int:
    """The step of a checkpoint that it was writing."""
    partial = (each.name.removesuffix(".partial") for each in folder.glob("checkpoints/step-*.partial"))
    return max((int(name.removeprefix("step-")) for name in partial), default=0)


def _told(folder: Path) -> int:
    """The tokens that it last said were behind it."""
    try:
        progress = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return 0  # It said nothing yet, or the disk was full.
    return int(progress["done"]) if progress["unit"] == "tokens" else 0
