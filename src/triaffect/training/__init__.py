"""Making models (torch, timm, Lightning)."""

import warnings

with warnings.catch_warnings():  # in a notebook without ipywidgets; huggingface_hub imports it as well
    warnings.filterwarnings("ignore", "IProgress not found")
    import tqdm.auto  # noqa: F401
