"""What the candidates of a search cost, as constraints, fronts and figures hold them against their losses."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.store.records import CandidateRecord, SearchRecord
from api.store.store import Store
from nas.cost import Served
from nas.errors import SpecError
from nas.latency_limit import latency_limit

_COUNTED = ("parameters", "non_embedding_parameters", "active_parameters")
_STORED = ("weight_bytes", "kv_cache_bytes", "memory_bytes")
_COMPUTED = ("prefill_flops_per_token", "decode_flops_per_token")
MILLISECONDS = "milliseconds"


def cost_names(search: SearchRecord) -> tuple[str, ...]:
    """Of the costs that are known of a search's candidates.

    Bytes are not of searches begun before the teacher's dtype was kept, and milliseconds are only where the budget
    names a table.
    """
    stored = () if _dtype_unknown(search) else _STORED
    timed = () if search.spec.budget.latency is None else (MILLISECONDS,)
    return (*_COUNTED, *stored, *_COMPUTED, *timed)


def costs_by_candidate(
    search: SearchRecord, candidates: Sequence[CandidateRecord], *, timed: bool
) -> dict[int, dict[str, float]]:
    """By candidate id and name, exactly, at the spec's `serving`; `timed`, with milliseconds where there is a table.

    `memory_bytes` are weights and KV cache together. Raises SpecError for a table that cannot be read any more.
    """
    serving, latency = search.spec.serving, search.spec.budget.latency
    served = Served(
        search.teacher,
        # Where it is not known, nothing is told that depends on it.
        dtype=serving.dtype or search.teacher_dtype or "float32",
        batch_size=serving.batch_size,
        context=search.spec.context,
    )
    limit = latency_limit(latency, search.teacher) if timed and latency is not None else None
    found = {}
    for candidate in candidates:
        own = served.cost(candidate.architecture).model_dump()
        own["memory_bytes"] = own["weight_bytes"] + own["kv_cache_bytes"]
        if limit is not None:
            own[MILLISECONDS] = limit.milliseconds(candidate.architecture)
        found[candidate.id] = {name: own[name] for name in cost_names(search) if name in own}
    return found


def figure_costs(session: Session, name: str) -> dict[int, dict[str, float]]:
    """Those of all candidates of a search; milliseconds only while their table can be read. Raises NotFoundError."""
    store = Store(session)
    search = store.searches.named(name)
    candidates = store.candidates.of_search(search.id)
    try:
        return costs_by_candidate(search, candidates, timed=True)
    except SpecError:
        # The table is a file of the user's, who may have moved it; the page has much else to show.
        return costs_by_candidate(search, candidates, timed=False)


def _dtype_unknown(search: SearchRecord) -> bool:
    return search.spec.serving.dtype is None and search.teacher_dtype is None
