"""What a run tells of itself while it goes on: throughput, memory, waiting, and the time that is left."""

import time
from dataclasses import dataclass

import torch

from nas.compression.memory import peak_bytes

_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    `tokens_per_second`, `flops_per_second` and `data_wait`, the share of time in which it waited for its batches, are
    of the time since the last report, measurements and checkpoints included; 0 FLOPs where none were given.
    `seconds_left` goes by all that this process has done of the run.
    """

    tokens: int
    total_tokens: int
    training_loss: float
    tokens_per_second: float
    flops_per_second: float
    data_wait: float
    peak_memory_bytes: int
    seconds_left: float


class Meter:
    """Counts what a process does of a run, steps that are taken a second time included."""

    def __init__(self, flops_per_token: float, device: torch.device) -> None:
        self._flops_per_token, self._device = flops_per_token, device
        self._began = self._reported = time.monotonic()
        self._tokens = self._tokens_reported = 0
        self._waited = 0.0

    def step_taken(self, tokens: int, seconds_waited: float) -> None:
        self._tokens += tokens
        self._waited += seconds_waited

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._reported >= _SECONDS_BETWEEN_REPORTS

    def report(self, tokens: int, total_tokens: int, training_loss: float) -> Progress:
        now = time.monotonic()
        seconds, since_start = max(now - self._reported, 1e-9), max(now - self._began, 1e-9)
        rate = (self._tokens - self._tokens_reported) / seconds
        left = (total_tokens - tokens) * since_start / self._tokens
        progress = Progress(
            tokens=tokens,
            total_tokens=total_tokens,
            training_loss=training_loss,
            tokens_per_second=rate,
            flops_per_second=rate * self._flops_per_token,
            data_wait=min(self._waited / seconds, 1.0),
            peak_memory_bytes=peak_bytes(self._device),
            seconds_left=left,
        )
        self._reported, self._tokens_reported, self._waited = now, self._tokens, 0.0
        return progress
