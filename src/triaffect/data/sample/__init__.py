"""The bundled sample: 1,584 rendered faces of 48 invented people, in the raw layout of Aff-Wild2.

Nobody real is in it. It was drawn by `triaffect render` with ICT-FaceKit (MIT, University of Southern California,
Institute for Creative Technologies) and may be used and passed on under the MIT licence; `data/README.md` has the
command and the notice.
"""

from __future__ import annotations

import os
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from triaffect.io import InputError, atomic_path

RECORD = "render.json"


def sample(folder: str | os.PathLike[str]) -> Path:
    """Copy the bundled sample out of the package.

    Args:
        folder: Where to put it. A folder that already contains the sample is not changed.

    Returns:
        The folder, an annotation tree with its crops: give it to `build_index`.

    Raises:
        InputError: The folder contains something else.
    """
    target = Path(folder)
    with as_file(files(__name__) / "data") as data:
        record = (data / RECORD).read_bytes()
        if target.is_dir() and any(target.iterdir()):
            if not (target / RECORD).is_file() or (target / RECORD).read_bytes() != record:
                raise InputError(f"{target}: is not empty; name a folder that is new or empty")
            return target
        if target.exists() and not target.is_dir():
            raise InputError(f"{target}: is a file; name a folder")
        with atomic_path(target) as tmp_path:
            shutil.copytree(data, tmp_path)
    return target
