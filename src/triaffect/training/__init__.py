"""Making models (torch, timm, Lightning)."""
