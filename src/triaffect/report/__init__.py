"""Figures and the page of a study (matplotlib, jinja2; never torch)."""
