"""OpenVINO as it is installed: what it does beside computing."""

import subprocess
import sys
from pathlib import Path


def test_the_detectors_library_tells_nobody_that_it_runs(tmp_path: Path) -> None:
    """By itself `import openvino` sends an event to Google Analytics, and keeps a client id in the home folder."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", "import pipeline.openvino_network"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
