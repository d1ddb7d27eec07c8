"""Measures SmartPay against what people would use in its place, in one run on one machine."""
