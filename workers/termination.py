"""How a worker hears SIGTERM, which a node that is taken away sends to its processes."""

import os
import signal
import threading
from collections.abc import Callable


def on_termination(tell: Callable[[], None]) -> None:
    """Calls `tell`, on a thread of its own, at every SIGTERM from now on; the signal does nothing else any more.

    Called in the main thread. A handler in Python would wait for that thread, which in a Ray worker is in Ray's own
    code; what the signal leaves in a pipe is read by the other thread at once.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # First: a signal between the two would be lost.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_listen, args=(reading, tell), name="termination", daemon=True).start()


def _listen(reading: int, tell: Callable[[], None]) -> None:
    while number := os.read(reading, 1):
        if number[0] == signal.SIGTERM:
            tell()
