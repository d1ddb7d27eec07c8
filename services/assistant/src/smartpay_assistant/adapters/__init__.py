"""Reach out: the index of payments, and the events that fill it."""
