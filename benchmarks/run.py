"""Runs the benchmarks one after the other and writes docs/performance.md (`make bench`; an hour on a quiet machine).

python benchmarks/run.py [--small]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from triaffect.io import write_text

HERE = Path(__file__).parent
SCRIPTS = {
    "indexing.py": ["/tmp/triaffect-benchmarks/small", "--videos", "20", "--frames", "400", "--rounds", "1"],
    "loading.py": ["--images", "640", "--rounds", "1"],
    "training.py": ["--images", "256", "--rounds", "1", "--backbones", "resnet18"],
    "features.py": ["--images", "640"],
    "balancing.py": ["--steps", "1", "--rounds", "1", "--backbone", "test_resnet"],
    "scoring.py": ["100000", "50"],
    "paper_way.py": ["--images", "512", "--rounds", "1"],
}
"""Script -> the options of a quick look."""

if __name__ == "__main__":
    small = "--small" in sys.argv
    sections = [(HERE / "performance.head.md").read_text(encoding="utf-8")]
    for name, options in SCRIPTS.items():
        print(name, file=sys.stderr)
        command = [sys.executable, str(HERE / name), *(options if small else [])]
        sections.append(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    text = "\n".join(section[section.find("## ") :] if i else section for i, section in enumerate(sections))
    write_text("/tmp/performance.md" if small else HERE.parent / "docs" / "performance.md", text)
