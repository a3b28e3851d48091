"""Files of models: which there are, fetching them, and that they are what they should be.

Only what the manifest names is ever fetched, at pinned revisions, and a file has its name only once its hash is right.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import tomli

CHUNK_BYTES = 1 << 20
CONNECT_S = 10.0
SILENCE_S = 30.0
"""After this long without a byte, the connection is given up and the rest asked for anew."""
TRIES = 5
"""In a row without a byte gained."""
RETRY_S = 1.0
_PASSING = (408, 429)
"""What a server says that is only busy."""
RECORD = "pulled.json"
"""Beside the files: the hashes of those that the manifest has none of."""

Progress = Callable[[int, int | None], None]
"""Told how many bytes of how many are here; None where nobody knows."""


class ModelFileError(Exception):
    """A file can't be had, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Either fetched from `url`, or made of `content`."""

    name: str
    url: str = ""
    size: int | None = None
    sha256: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    name: str
    about: str
    use: str
    files: tuple[ModelFile, ...]


def manifest() -> dict[str, ModelEntry]:
    tables = tomli.loads(files("daemon").joinpath("models.toml").read_text("utf-8"))
    return {
        name: ModelEntry(name, table["about"], table["use"], tuple(ModelFile(**one) for one in table["files"]))
        for name, table in tables.items()
    }


def expected_sha256(folder: Path, file: ModelFile) -> str:
    """Of the manifest, or as it was at the first pull; empty where nobody knows yet."""
    if file.content:
        return hashlib.sha256(file.content.encode()).hexdigest()
    return file.sha256 or _record(folder).get(file.name, "")


def state_of(folder: Path, file: ModelFile) -> str:
    """ready (with the size that it should have), partial, or missing; by sizes alone."""
    path = folder / file.name
    if path.is_file() and file.size in (None, path.stat().st_size):
        return "ready"
    return "partial" if path.exists() or _part(path).exists() else "missing"


def problems(folder: Path, entry: ModelEntry, told: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """What is wrong with the files, by their hashes; `told` hears the name of each before it is read."""
    for file in entry.files:
        told(file.name)
        if problem := _problem(folder, file):
            yield problem


def _problem(folder: Path, file: ModelFile) -> str:
    path = folder / file.name
    try:
        found = _hash_of(path).hexdigest()
    except OSError as error:
        return f"{path}: {error.strerror}"
    expected = expected_sha256(folder, file)
    if not expected:
        return f"{path}: nobody knows its SHA-256; it is {found}"
    return "" if found == expected else f"{path}: its SHA-256 is {found}, and should be {expected}"


async def pull(folder: Path, file: ModelFile, progress: Progress, mirror: str = "") -> bool:
    """Have the file in the folder, and its hash right. False where it was there already. Goes on with what an earlier
    try left. `mirror`, if given, stands in for the host. Raises ModelFileError."""
    path = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not expected_sha256(folder, file):
            await asyncio.to_thread(_remember, folder, file, path)  # copied here by hand
        if path.exists() and not await asyncio.to_thread(_problem, folder, file):
            return False
        if file.content:
            path.write_text(file.content, "utf-8")
            return True
        await _fetch(_mirrored(file.url, mirror), _part(path), file.size, progress)
        await asyncio.to_thread(_accept, folder, file)
    except OSError as error:
        raise ModelFileError(f"{error.filename or path}: {error.strerror or error}") from error
    return True


async def _fetch(url: str, part: Path, size: int | None, progress: Progress) -> None:
    """Asks for the rest as long as something comes."""
    failures = 0
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            before = _size_of(part)
            try:
                await _fetch_rest(session, url, part, size, progress)
                return
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                failures = 1 if _size_of(part) > before else failures + 1
                if failures >= TRIES or _is_final(error):
                    raise ModelFileError(f"{url}: {error or type(error).__name__}") from error
            await asyncio.sleep(RETRY_S * failures)


def _is_final(error: Exception) -> bool:
    """An answer that the next try would get, too."""
    status = error.status if isinstance(error, aiohttp.ClientResponseError) else 0
    return 400 <= status < 500 and status not in _PASSING


async def _fetch_rest(
    session: aiohttp.ClientSession, url: str, part: Path, size: int | None, progress: Progress
) -> None:
    start = _size_of(part)
    if size is not None and start >= size:
        if start == size:
            return
        part.unlink()  # longer than it may be: another file's
        start = 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    async with session.get(url, headers=headers) as response:
        if response.status == 416:  # it has no more: what is here is whole, or another file's; its hash will say
            return
        response.raise_for_status()
        if response.status != 206:
            start = 0
        whole = size or (start + response.content_length if response.content_length is not None else None)
        with part.open("r+b" if start else "wb") as into:
            into.seek(start)
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                await asyncio.to_thread(into.write, chunk)
                start += len(chunk)
                progress(start, whole)
                if whole is not None and start > whole:
                    raise ModelFileError(f"{url}: sends more than the {whole} bytes that it should have")
    if whole is not None and start < whole:
        raise aiohttp.ClientPayloadError(f"ends after {start} of {whole} bytes")


def _accept(folder: Path, file: ModelFile) -> None:
    """It gets its name if its hash is right; else it is deleted, as no part of it can be trusted."""
    path = folder / file.name
    found = _hash_of(_part(path)).hexdigest()
    expected = expected_sha256(folder, file)
    if expected and found != expected:
        _part(path).unlink()
        raise ModelFileError(f"{file.url}: its SHA-256 is {found}, and should be {expected}; it was deleted")
    with _part(path).open("rb") as written:
        os.fsync(written.fileno())
    os.replace(_part(path), path)
    if not expected:
        _remember(folder, file, path)


def _remember(folder: Path, file: ModelFile, path: Path) -> None:
    known = _record(folder) | {file.name: _hash_of(path).hexdigest()}
    (folder / RECORD).write_text(json.dumps(known, indent=1) + "\n", "utf-8")


def _hash_of(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _record(folder: Path) -> dict[str, str]:
    try:
        known = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mirrored(url: str, mirror: str) -> str:
    if not mirror:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}{parts.path}"
