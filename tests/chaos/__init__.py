"""Chaos: real runs in real trouble, and what was lost. See `__main__`."""
