"""Rendered faces with exact labels (trimesh, embreex)."""
