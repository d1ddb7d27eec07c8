"""The payments service: takes a payment from request to settlement, charging once."""
