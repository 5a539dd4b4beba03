"""Readers of what others made, fed with what nobody would make; see benchmarks/fuzz.py."""
