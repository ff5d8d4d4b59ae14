"""Models of the Hugging Face hub, without a network."""

from pathlib import Path

import pytest

import triaffect as ta
from triaffect.io import InputError, model_folder

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


def test_a_model_of_the_hub_is_downloaded_once_and_used_by_name(monkeypatch):
    requests = []

    def snapshot(repository, allow_patterns):
        requests.append((repository, "*.onnx" in allow_patterns))
        return str(Path(ta.__file__).parent / "inference/base")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert ta.Analyzer("hub:someone/model", backend="onnx").tasks == ("va", "expr", "au")
    assert requests[0] == ("someone/model", True)


def test_without_a_network_the_refusal_is_one_line(monkeypatch):
    def refuse(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        InputError, match=r"^hub:a/b: cannot be fetched \(no connection\); name a model folder instead$"
    ):
        model_folder("hub:a/b")
    with pytest.raises(InputError, match="holds no model"):
        model_folder("a/b")  # a missing folder is not looked for there
