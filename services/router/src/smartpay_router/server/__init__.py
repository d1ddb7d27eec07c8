"""Speaks the contract: one file per service of it."""
