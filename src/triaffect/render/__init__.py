"""Rendered faces with exact labels (embreex)."""
