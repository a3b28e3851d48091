"""A whole small model with random weights, and what the reference made of it."""

import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (MODELS=0)")

import torch

from providers.local.devices import Precision
from providers.local.engine import Engine, open_engine
from providers.local.moondream2.config import load_config
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.weights import load_model
from providers.local.settings import ModelSettings

VECTORS = Path(__file__).parents[1] / "data" / "moondream2"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing by two, and the tests' other processes want one."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the published files lie in theirs."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(VECTORS / name, folder)
    shutil.copy(VECTORS / "weights.safetensors", folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def model() -> Moondream:
    config = load_config(VECTORS / "config.json")
    return load_model(config, VECTORS / "weights.safetensors", torch.device("cpu"), Precision(torch.float32))


@pytest.fixture(scope="session")
def pictures() -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted((VECTORS / "images").iterdir())}


@pytest.fixture
async def engine(model_folder: Path) -> AsyncIterator[Engine]:
    async with open_engine(ModelSettings(folder=model_folder, precision="f32", threads=1)) as opened:
        yield opened
