"""Seeded payment worlds, and what a policy would have lost in them."""
