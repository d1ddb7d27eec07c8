"""Proves that the router loses nothing: it is killed amid load, many times, and looked into."""
