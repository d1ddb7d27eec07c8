"""The outside world on one machine, so that adapters meet real wire protocols without a network."""
