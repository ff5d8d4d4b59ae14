"""Annotations in, tables out (numpy and polars; never torch)."""
