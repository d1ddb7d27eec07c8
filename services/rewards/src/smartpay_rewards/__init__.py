"""Rewards: 2 % of a settled payment in tokens, minted exactly once."""
