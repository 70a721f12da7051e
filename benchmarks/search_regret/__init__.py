"""Strategies replayed: on the record of an exhaustive search, and on synthetic landscapes whose ranks move for long."""
