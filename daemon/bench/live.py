"""The whole daemon on a clip in real time: from the frame to the row, and how much memory it takes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg

from daemon.bench.figures import Figure, at_most, percentile
from daemon.bench.material import Material
from daemon.embedded import embedded_postgres

_CONFIG = """
site = "bench"
[http]
enabled = false
[detector]
model = {model}
size_px = {size_px}
[triggers.object_appeared]
best_of_s = 0
[[cameras]]
name = "clip"
url = {clip}
pace = "realtime"
[[providers]]
kind = "detections"
"""

_LATENCY = """
SELECT extract(epoch FROM o.inserted_at - e.captured_at) * 1000 - coalesce(a.processing_time_ms, 0)
FROM events e JOIN outcomes o USING (event_id) LEFT JOIN analyses a USING (event_id)
WHERE e.kind = 'object_appeared'
"""


async def measure(material: Material) -> AsyncIterator[Figure]:
    folder = material.scratch / "live"
    folder.mkdir()
    stopped = await asyncio.to_thread(_run_daemon, material, folder)
    milliseconds = await _latencies(folder / "state")
    detail = f"{len(milliseconds)} events; the picture that decided, detections as provider, embedded Postgres"
    yield at_most("frame captured → row in Postgres, p50", percentile(milliseconds, 0.5), 30, detail, "ms")
    yield at_most("frame captured → row in Postgres, p99", percentile(milliseconds, 0.99), 120, detail, "ms")
    yield at_most(
        "memory of the daemon with its detector", stopped["rss_mb"], 260, "resident, at the end of the run", "MB"
    )


def _run_daemon(material: Material, folder: Path) -> dict[str, Any]:
    config = folder / "config.toml"
    paths = {"model": json.dumps(str(material.model)), "clip": json.dumps(str(material.clip))}
    config.write_text(_CONFIG.format(size_px=material.size_px, **paths))
    command = [sys.executable, "-m", "daemon", "run", "--until-eof", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"the daemon ended with {done.returncode}: {done.stderr[-500:]}")
    stopped: dict[str, Any] = next(line for line in lines if line["event"] == "daemon.stopped")
    return stopped


async def _latencies(state_dir: Path) -> list[float]:
    async with embedded_postgres(state_dir) as embedded:
        connection = await asyncpg.connect(embedded.dsn)
        try:
            return [float(row[0]) for row in await connection.fetch(_LATENCY)]
        finally:
            await connection.close()
