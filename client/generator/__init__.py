"""Writes the client's generated modules; client/generate.py runs it."""
