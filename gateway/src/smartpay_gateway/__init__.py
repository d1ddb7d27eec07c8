"""The gateway: everything Envoy needs, generated from the contract."""
