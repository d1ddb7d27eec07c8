"""Speaks the contract: one file per gRPC service of the package."""
