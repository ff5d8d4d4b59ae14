"""Measures, scores, fusion and post-processing of predictions (numpy, polars; never torch)."""
