"""What an engine can be asked, and how one comes to be. The server knows engines by this alone."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, Protocol

from providers.local.answers import Answer, Choice, Filled, Found
from providers.local.errors import ModelError
from providers.local.settings import ModelSettings

ENGINES: Mapping[str, str] = {
    "moondream2": "providers.local.moondream2.engine",
    "llava": "providers.local.llava.engine",
}
"""Their names in the configuration, and the module of each, which has `open_engine`."""

CaptionLength = Literal["short", "normal", "long"]
Reference = tuple[float, float] | tuple[float, float, float, float]
"""A place in the picture that a question is about: a point (x, y), or a box (x_min, y_min, x_max, y_max), in 0…1."""

MAX_TOKENS = 768
MAX_OBJECTS = 150


@dataclass(slots=True)
class Used:
    """What a request has cost so far: tokens that were read, those of a picture included."""

    input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What every request may say beside its question. `urgency`: the lower, the sooner. `temperature` 0 takes the
    likeliest token at each step, so that the same picture gives the same answer. In `used` the engine counts."""

    urgency: int = 0
    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    top_p: float = 0.3
    used: Used = field(default_factory=Used, compare=False)


class Engine(Protocol):
    """All methods are coroutines of one event loop, and any number may be under way: what comes together is answered
    together. A picture is its encoded bytes.

    Each raises BadRequestError for what can't be asked, UnsupportedError where this engine has no such skill,
    OverloadedError where too many wait, ModelError where it can't go on. One that is cancelled frees what it held.
    """

    @property
    def version(self) -> str:
        """Which weights these are."""

    @property
    def failed(self) -> "Future[None]":
        """Ends with a ModelError when no more can be answered."""

    def stats(self) -> Mapping[str, float]:
        """Counters since the start, by the names that metrics have."""

    async def query(
        self,
        picture: bytes | None,
        question: str,
        asked: Asked,
        *,
        reasoning: bool = False,
        places: Sequence[Reference] = (),
    ) -> Answer: ...

    async def choose(
        self, picture: bytes | None, question: str, choices: Mapping[str, Sequence[str]], asked: Asked
    ) -> Choice: ...

    async def caption(self, picture: bytes, length: CaptionLength, asked: Asked) -> Answer: ...

    async def detect(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found: ...

    async def point(self, picture: bytes, what: str, max_objects: int, asked: Asked) -> Found: ...

    async def fill(self, picture: bytes | None, question: str, schema: Mapping[str, Any], asked: Asked) -> Filled: ...


def open_engine(settings: ModelSettings) -> AbstractAsyncContextManager[Engine]:
    """Loads the model, which takes a while and is done in a thread. Raises ModelError."""
    try:
        module = import_module(ENGINES[settings.engine])
    except ImportError as error:
        raise ModelError(f"{settings.engine} needs the extra `models`, which is not installed here: {error}") from error
    opened: AbstractAsyncContextManager[Engine] = module.open_engine(settings)
    return opened
