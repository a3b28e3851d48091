"""A process that uses the embedded Postgres of a folder until its input ends: `python -m … FOLDER`."""

import asyncio
import sys
from pathlib import Path

from daemon.embedded import embedded_postgres


async def use(state_dir: Path) -> None:
    async with embedded_postgres(state_dir) as embedded:
        print(embedded.dsn, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(use(Path(sys.argv[1])))
