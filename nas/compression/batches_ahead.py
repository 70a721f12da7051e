"""Batches that are read while the one before is worked on."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from nas.compression.data import Batch


class BatchesAhead:
    """The batches of steps up to `last_step`, each read by a thread of its own once the one before was asked for.

    Which batch a step has is `read`'s to say, so it does not matter who reads when. `seconds_waited` is how long the
    last one was waited for.
    """

    def __init__(self, read: Callable[[int], Batch], last_step: int) -> None:
        self._read, self._last_step = read, last_step
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None
        self.seconds_waited = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def of_step(self, step: int) -> Batch:
        """The batch of `step`. Raises whatever reading it raised."""
        began = time.monotonic()
        ahead = self._ahead
        batch = (ahead[1] if ahead is not None and ahead[0] == step else self._begin(step)).result()
        self.seconds_waited = time.monotonic() - began
        self._ahead = (step + 1, self._begin(step + 1)) if step + 1 < self._last_step else None
        return batch

    def _begin(self, step: int) -> Future[Batch]:
        return self._thread.submit(self._read, step)
