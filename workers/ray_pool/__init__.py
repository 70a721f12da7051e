"""WorkerPool on Ray: one detached, named actor for each attempt. The only package that knows Ray."""

import os

# Both are read when Ray is imported: that it reports to nobody, and that a token given is one to use.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if os.environ.get("RAY_AUTH_TOKEN"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")

from workers.ray_pool.pool import RayPool

__all__ = ["RayPool"]
