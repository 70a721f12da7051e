"""The store within one transaction: every query is a method of one of its parts, and none of them commits."""

from sqlalchemy.orm import Session

from api.store.attempts import Attempts
from api.store.candidates import Candidates
from api.store.curves import Curves
from api.store.events import Events
from api.store.jobs import Jobs
from api.store.leases import Leases
from api.store.promotions import Decisions, Promotions
from api.store.searches import Searches


class Store:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.searches = Searches(session)
        self.candidates = Candidates(session)
        self.jobs = Jobs(session)
        self.attempts = Attempts(session)
        self.curves = Curves(session)
        self.decisions = Decisions(session)
        self.promotions = Promotions(session)
        self.events = Events(session)
        self.leases = Leases(session)
