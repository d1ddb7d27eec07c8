"""Reach out: the model bundle, its engine, the history's store and the payments' events."""
