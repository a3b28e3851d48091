"""What tests of faults share: the nursery, and a box with a database of its own."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.box import BoxSettings
from tests.faults.lives import Lives
from tests.faults.nursery import Nursery, a_nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with a_nursery() as nursery:
        yield nursery


@pytest.fixture
def seed() -> str:
    """Printed with every failure. `LVA_SEED=…` tries the same again, as far as the machine's timing allows."""
    return os.environ.get("LVA_SEED") or str(random.SystemRandom().randrange(10**6))


NewBox = Callable[..., Lives]


@pytest.fixture
def new_box(nursery: Nursery, tmp_path: Path, seed: str) -> Iterator[NewBox]:
    """Makes boxes: `new_box(database, through=the address that it uses, **settings)`. None outlives the test."""
    boxes: list[Lives] = []

    def make(database: str, through: str = "", **settings: Any) -> Lives:
        folder = tmp_path / f"box{len(boxes)}"
        folder.mkdir()
        usual = {"seed": f"{seed}/{len(boxes)}", "state_dir": str(folder / "state"), "dsn": through or database}
        boxes.append(Lives(nursery, folder, BoxSettings(**(usual | settings)), database))
        return boxes[-1]

    yield make
    for box in boxes:
        box.abandon()


@pytest.fixture
def box(database: str, new_box: NewBox) -> Lives:
    return new_box(database)
