"""Decides: pure rules, features and verdicts that know no network, store or clock."""
