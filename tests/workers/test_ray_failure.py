"""Which deaths of an actor count against its job, by the errors that Ray has for them."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnschedulableError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RuntimeEnvSetupError,
)

from workers.ray_pool.shell import failure_of


@pytest.mark.parametrize(
    "error",
    [OutOfMemoryError("used more than 95 %"), RuntimeEnvSetupError("no"), ActorUnschedulableError("too large")],
    ids=lambda error: type(error).__name__,
)
def test_what_would_end_so_again_counts(error: RayError) -> None:
    assert not failure_of(error).lost


@pytest.mark.parametrize(
    "error",
    [RayError("the cluster is gone"), ActorDiedError(), NodeDiedError("it was taken away")],
    ids=lambda error: type(error).__name__,
)
def test_a_worker_that_died_is_lost(error: RayError) -> None:
    assert failure_of(error).lost
