from collections.abc import AsyncIterator

import pytest

from tests.providers.wire import Wire


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    server = Wire()
    await server.start()
    yield server
    await server.stop()
