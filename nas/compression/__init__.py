"""Cutting and retraining language models with torch and transformers; needs no Ray, API or database."""
