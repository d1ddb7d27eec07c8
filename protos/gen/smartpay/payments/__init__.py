"""Generated from the contract by `make protos`; never edit."""
