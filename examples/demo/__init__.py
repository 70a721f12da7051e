"""The demo: a small real teacher, the text it was trained on, and a search over it."""
