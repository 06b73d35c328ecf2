"""Helpers that know nothing of videos, models or configs; import them from their own modules."""
