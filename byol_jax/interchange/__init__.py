"""Encoders for others: as a Python function, and in other formats."""
