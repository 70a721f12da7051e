"""Which deaths of an actor count against its job, by the errors that Ray has for them."""

import pytest
from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RayError, RuntimeEnvSetupError

from workers.ray_pool import _failure


@pytest.mark.parametrize(
    "error",
    [OutOfMemoryError("used more than 95 %"), RuntimeEnvSetupError("no"), ActorUnschedulableError("too large")],
    ids=lambda error: type(error).__name__,
)
def test_what_would_end_so_again_counts(error: RayError) -> None:
    """An attempt that is lost is tried again without end."""
    assert not _failure(error, "some node").lost


def test_what_ray_itself_lost_does_not_count() -> None:
    assert _failure(RayError("the cluster is gone"), "some node").lost
