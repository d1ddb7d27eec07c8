"""What rewards decides; no network, no protobuf, no clock of its own."""
