"""Decides: who may charge, in which order, and what an outcome teaches. Knows no network."""
