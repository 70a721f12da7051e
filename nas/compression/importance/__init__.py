"""Importance of layers, heads, neurons, experts and embedding channels: measured by samples, or by weights alone."""

from nas.compression.importance.calibrate import Source, calibrate
from nas.compression.importance.plan import Origin, Plan
from nas.compression.importance.statistics import Statistics, load_scores, merge

__all__ = ["Origin", "Plan", "Source", "Statistics", "calibrate", "load_scores", "merge"]
