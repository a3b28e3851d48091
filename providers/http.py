"""The one way by which any dialect speaks HTTP: JSON out, a bounded JSON object back, or a ProviderError.

A server is believed only after its `error` was looked for, at any status: Moondream Station answers its
errors under 200, proxies answer HTML, and every dialect has its own shape of error.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp

from providers import strict_json
from providers.base import Advice, Failure, ProviderError, truncated

MAX_REPLY_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 400
MAX_CLEANED_CHARS = 4096
MAX_RETRY_AFTER_S = 3600.0

_BASE64_RUN = re.compile(r"[A-Za-z0-9+/=_-]{80,}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

Verdict = tuple[Failure, Advice | None]
Judge = Callable[[int, str], Verdict]
"""From status and message to what it means; each dialect has its own table and falls back to
`judge_status`."""


def judge_status(status: int, message: str) -> Verdict:
    """What a status means where the dialect says nothing else. Under 2xx an error is the server's."""
    known: dict[int, Verdict] = {
        401: (Failure.AUTH, None),
        402: (Failure.AUTH, None),
        403: (Failure.AUTH, None),
        404: (Failure.NOT_FOUND, None),
        405: (Failure.NOT_FOUND, None),
        408: (Failure.TIMEOUT, None),
        410: (Failure.NOT_FOUND, None),
        413: (Failure.TOO_LARGE, None),
        429: (Failure.RATE_LIMITED, None),
        501: (Failure.NOT_FOUND, None),
        529: (Failure.OVERLOADED, None),
    }
    if status in known:
        return known[status]
    if 300 <= status < 400:
        return Failure.NOT_FOUND, None
    if 400 <= status < 500:
        return Failure.BAD_REQUEST, None
    return Failure.SERVER_ERROR, None


def open_session() -> aiohttp.ClientSession:
    """A session without proxies from the environment, cookies or decompression: a megabyte may not become a
    gigabyte."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "live-vision-analyzer"},
    )


class JsonHttp:
    """One server: its address, its headers and its secret."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        headers: Mapping[str, str] | None = None,
        secret: str = "",
        judge: Judge = judge_status,
    ) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(connect_timeout_s, timeout_s))
        self._headers = dict(headers or {})
        self._secret = secret
        self._judge = judge

    async def exchange(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One request, one JSON object. Raises ProviderError for everything else."""
        try:
            async with self._session.request(
                method,
                self._base_url + path,
                json=body,
                headers=self._headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                content = await _read_bounded(response)
                return self._believe(response, content)
        except aiohttp.ConnectionTimeoutError as error:
            raise ProviderError(Failure.CONNECTION_ERROR, "no connection in time") from error
        except TimeoutError as error:
            raise ProviderError(Failure.TIMEOUT, f"no answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            message = self._clean(str(error))
            raise ProviderError(Failure.CONNECTION_ERROR, message, advice=Advice.PARK) from error
        except (aiohttp.ClientConnectorError, aiohttp.ClientResponseError) as error:  # nobody there who speaks HTTP
            raise ProviderError(Failure.CONNECTION_ERROR, self._told_by(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"went away without an answer: {self._told_by(error)}"
            raise ProviderError(Failure.SERVER_ERROR, message, advice=Advice.ALONE) from error

    def _believe(self, response: aiohttp.ClientResponse, content: bytes) -> dict[str, Any]:
        try:
            body: Any = strict_json.parse(content.decode("utf-8"))
        except ValueError:
            body = None
        message = told_error(body)
        if response.status == 200 and message is None:
            if isinstance(body, dict):
                return body
            raise self._error(response, 200, f"not a JSON object: {content[:120].decode('utf-8', 'replace')!r}")
        said = message or content[:200].decode("utf-8", "replace") or response.reason or ""
        raise self._error(response, response.status, said)

    def _error(self, response: aiohttp.ClientResponse, status: int, said: str) -> ProviderError:
        message = self._clean(said)
        failure, advice = self._judge(status, message)
        after_s = retry_after_s(response.headers.get("Retry-After", ""))
        return ProviderError(failure, f"{status}: {message}", retry_after_s=after_s, advice=advice)

    def _told_by(self, error: Exception) -> str:
        return self._clean(f"{type(error).__name__}: {error}")

    def _clean(self, said: str) -> str:
        """A stranger's words, fit for logs and rows: one short line without our key or a picture."""
        for form in {self._secret, quote(self._secret, safe="")} - {""}:
            said = said.replace(form, "***")
        plain = _CONTROLS.sub(" ", _BASE64_RUN.sub("…", said[:MAX_CLEANED_CHARS]))
        return truncated(plain, MAX_MESSAGE_BYTES).strip()


def told_error(body: Any) -> str | None:
    """The error that a body tells, in any of the shapes in use; None where it tells none."""
    if not isinstance(body, dict):
        return None
    told = body.get("error") or body.get("detail")
    if not told:
        return None
    if isinstance(told, dict):
        told = told.get("message") or told.get("code") or told.get("type") or told
    status = body.get("status")
    return f"{told} ({status})" if isinstance(status, str) else str(told)


def retry_after_s(value: str) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date; None where it says nothing useful."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, IndexError):
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if seconds == seconds else None


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise ProviderError(Failure.SERVER_ERROR, f"sent {encoding!r} though not asked to", advice=Advice.FAULT)
    content = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise ProviderError(Failure.SERVER_ERROR, "sent more than 1 MiB", advice=Advice.FAULT)
    return bytes(content)
