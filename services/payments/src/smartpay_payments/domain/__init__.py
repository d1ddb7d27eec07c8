"""Decides: what a payment is and what may happen to it. Pure."""
