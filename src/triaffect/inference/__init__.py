"""Using models on the world: find faces in photos, videos and cameras, and describe them."""
