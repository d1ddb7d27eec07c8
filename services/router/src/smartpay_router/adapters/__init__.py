"""Reach out: River's learner, the SQLite store and the payments' events."""
