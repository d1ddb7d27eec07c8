"""How rewards reaches the chain, the payments service and its store."""
