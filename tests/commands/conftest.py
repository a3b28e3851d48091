from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.providers.wire import Wire


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    server = Wire()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with three pictures, one of them in a folder below, and a file that only looks like
    one."""
    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    grey = np.full((48, 64, 3), 128, np.uint8)
    for name in ("a.jpg", "b.png", "below/c.bmp"):
        cv2.imwrite(str(pictures / name), grey)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (pictures / "notes.txt").write_text("not asked about")
    return tmp_path


def configure(folder: Path, wire: Wire, more: str = "") -> None:
    (folder / "config.toml").write_text(
        f"""
        [[providers]]
        kind = "moondream"
        dialect = "local"
        base_url = "{wire.url}/v1"
        max_attempts = 1
        {more}
        """
    )
