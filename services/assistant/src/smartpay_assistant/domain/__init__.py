"""Decides: what a question means, which figures answer it, and what may be said."""
