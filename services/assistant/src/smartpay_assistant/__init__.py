"""Answers questions about a merchant's own payments; every figure comes from a tool."""
