"""Pictures from outside: which ones are taken, and what is wrong with the others."""

import asyncio
import base64
import binascii
import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from PIL import Image, UnidentifiedImageError

from providers.local.errors import BadRequestError, TooLargeError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""No others: a decoder that nobody needs is one more that a stranger can feed."""


def from_url(url: str) -> bytes:
    """Of a `data:` URL. Nothing is ever fetched: whoever asks sends the picture. Raises BadRequestError."""
    if not url.startswith("data:"):
        raise BadRequestError("image: must be a data: URL with the picture in it; nothing is fetched from elsewhere")
    head, comma, body = url.partition(",")
    if not comma:
        raise BadRequestError("image: a data: URL without a comma has no picture")
    return from_base64(body) if head.endswith(";base64") else unquote_to_bytes(body)


def from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequestError(f"image: no base64: {error}") from error


def decoded(encoded: bytes, max_pixels: int) -> Image.Image:
    """Read whole, so that what is broken is known now. Blocks. Raises BadRequestError, or TooLargeError by the size
    that its header says, before anything is unpacked."""
    if not encoded:
        raise BadRequestError("image: it is empty")
    most = f"at most {max_pixels / 1e6:g} million are taken"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            picture = Image.open(BytesIO(encoded), formats=FORMATS)
            if picture.width * picture.height > max_pixels:
                raise TooLargeError(f"image: {picture.width} x {picture.height} pixels; {most}")
            picture.load()
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"image: far too many pixels; {most}") from error
    except UnidentifiedImageError as error:
        raise BadRequestError(f"image: none of {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's readers raise on broken files
        raise BadRequestError(f"image: it can't be read: {error}") from error
    return picture


T = TypeVar("T")


class Prepared(Generic[T]):
    """Pictures as an engine wants them, each decoded and prepared once, however many ask about it at the same time;
    the last few are kept. In threads, so that the event loop goes on."""

    def __init__(self, prepare: Callable[[Image.Image], T], max_pixels: int, kept: int = 16) -> None:
        self._prepare = prepare
        self._max_pixels = max_pixels
        self._kept = kept
        self._tasks: OrderedDict[bytes, asyncio.Task[T]] = OrderedDict()

    async def get(self, encoded: bytes) -> tuple[bytes, T]:
        """The hash of its bytes, and the picture. Raises BadRequestError."""
        key = hashlib.sha256(encoded).digest()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(asyncio.to_thread(self._made, encoded), name="picture")
        self._tasks.move_to_end(key)
        mine = self._tasks[key]
        self._forget_old()
        return key, await asyncio.shield(mine)  # who gives up does so for himself alone

    def _forget_old(self) -> None:
        done = [key for key, task in self._tasks.items() if task.done()]
        for key in done[: max(0, len(self._tasks) - self._kept)]:
            del self._tasks[key]

    def _made(self, encoded: bytes) -> T:
        return self._prepare(decoded(encoded, self._max_pixels))
