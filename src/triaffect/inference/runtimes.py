"""Import ONNX Runtime and OpenVINO with their telemetry switched off.

Both report home by default: ONNX Runtime (1.29 and newer) stores a device id and uploads events, OpenVINO stores a
client id and sends usage data. Every import of either in this package goes through these two functions.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from triaffect.io import InputError


def import_onnxruntime() -> Any:
    """Return the module `onnxruntime`, its telemetry off for the whole process."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library initializes, so before the import
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # Windows has no such variable
    return onnxruntime


def import_openvino() -> Any:
    """Return the module `openvino`, its telemetry off for the whole process.

    Raises:
        InputError: OpenVINO is not installed.
    """
    # OpenVINO uses its own stub when this package cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise InputError("the backend openvino is not installed: pip install 'triaffect[openvino]'") from None
    return openvino
