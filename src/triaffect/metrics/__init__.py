"""Judging what was predicted (numpy, scipy, matplotlib; never torch)."""
