"""What a run tells of itself, and batches that are read ahead."""

import threading
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from nas.compression.batches_ahead import BatchesAhead
from nas.compression.data import Batch, PackedTokens, write_token_file
from nas.compression.gradients import Terms
from nas.compression.memory import peak_bytes
from nas.compression.telemetry import Meter, Progress
from nas.compression.train import Run, train
from tests.nas.compression.small_run import new_run

CPU = torch.device("cpu")


def batch_of(step: int) -> Batch:
    return Batch(torch.full((1, 2), step), torch.full((1, 2), step), first=step)


def test_batches_are_those_asked_for_whatever_was_read_ahead() -> None:
    reads, ahead = list[int](), threading.Event()

    def read(step: int) -> Batch:
        reads.append(step)
        if step == 1:
            ahead.set()
        return batch_of(step)

    with BatchesAhead(read, last_step=4) as batches:
        found = [batches.of_step(0).first]
        assert ahead.wait(5), "the next one is read before it is asked for"
        found += [batches.of_step(step).first for step in (1, 2, 1, 2, 3)]
    assert found == [0, 1, 2, 1, 2, 3]
    assert reads == [0, 1, 2, 3, 1, 2, 3]
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_what_reading_raises_is_raised_where_the_batch_is_wanted_and_waiting_is_counted() -> None:
    def read(step: int) -> Batch:
        if step == 1:
            raise OSError("the disk is gone")
        time.sleep(0.05)
        return batch_of(step)

    with BatchesAhead(read, last_step=3) as batches:
        batches.of_step(0)
        assert batches.seconds_waited >= 0.05
        with pytest.raises(OSError, match="the disk is gone"):
            batches.of_step(1)


def test_a_meter_counts_what_was_done_since_the_last_report() -> None:
    began = time.monotonic()
    meter = Meter(1e6, CPU)
    for _ in range(3):
        meter.step_taken(100, seconds_waited=0.01)
    time.sleep(0.1)
    first = meter.report(300, 1000, 2.5)
    assert 300 / (time.monotonic() - began) <= first.tokens_per_second <= 300 / 0.1
    assert first.flops_per_second == pytest.approx(1e6 * first.tokens_per_second)
    assert first.data_wait == pytest.approx(0.03 * first.tokens_per_second / 300)
    assert first.seconds_left == pytest.approx(700 / first.tokens_per_second)
    meter.step_taken(100, seconds_waited=0.0)  # The same step again, after a rollback.
    time.sleep(0.05)
    second = meter.report(300, 1000, 2.5)
    assert 0 < second.tokens_per_second <= 100 / 0.05
    assert second.data_wait == 0


def test_a_run_tells_of_itself(tmp_path: Path, tokenizer: Tokenizer, text_file: Path) -> None:
    write_token_file(tmp_path / "t.bin", iter([text_file.read_text()]), tokenizer, 0, max_tokens=2000)
    run = new_run(PackedTokens(tmp_path / "t.bin", sequence_length=8))

    def slowly(batch: Batch) -> Terms:
        time.sleep(0.06)
        return run.objective(batch)

    told, started = list[Progress](), time.monotonic()
    measured = Run(**{**vars(run), "objective": slowly, "flops_per_token": 1000.0})
    train(measured, checkpoints=tmp_path / "run", measure=lambda _: None, progress=told.append)
    seconds = time.monotonic() - started
    assert len(told) == 2, "after half a second, and at the end"
    assert (told[-1].tokens, told[-1].total_tokens, told[-1].seconds_left) == (320, 320, 0)
    assert 0 < told[0].seconds_left < seconds
    for each in told:
        assert each.tokens_per_second < 32 / 0.06
        assert each.flops_per_second == 1000 * each.tokens_per_second
        assert 0 <= each.data_wait < 0.5


def test_memory_is_the_most_that_was_held() -> None:
    held = torch.ones(25_000_000)  # 100 MB, written to.
    during = peak_bytes(CPU)
    assert during > held.nbytes
    del held
    assert peak_bytes(CPU) >= during - 1_000_000, "the system counts in pages, and not each at once"
