"""Reaches out: processors, other services, the store."""
