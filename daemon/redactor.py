"""Secrets taken out of texts: by their values, in every form that these may have, and by what addresses look like."""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

from structlog.typing import EventDict, WrappedLogger

MASK = "***"

_USERINFO = re.compile(r"(?<=://)[^/\s]+@")
_QUERY_SECRET = re.compile(
    r"(?i)([?&][^=&\s]*(?:pass|pwd|token|key|auth|secret|sig|user)[^=&\s]*=)[^&#\s\"'\\]+",
)
_SHORTEST_SECRET = 4
"""Shorter values are not masked by value: masking every 'ab' would only garble the log."""
_SHORTEST_BASE64 = 7
"""What is left of a short secret in base64 would be found in every other text."""

_FIRST_KEYS = ("timestamp", "level", "event", "camera")


class Redactor:
    """Takes known secrets and credentials in URLs out of texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.add_secrets(secrets)

    def add_secrets(self, secrets: Iterable[str]) -> None:
        """Take these out too, beside those that were known: an old password may still be in somebody's hands."""
        self._forms |= {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _forms(secret)}
        longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        if self._known:
            text = self._known.sub(MASK, text)
        if "://" in text:
            text = _USERINFO.sub(f"{MASK}@", text)
        if "=" in text:
            text = _QUERY_SECRET.sub(rf"\g<1>{MASK}", text)
        return text

    def value(self, value: object) -> object:
        """The same for whatever a log event holds; numbers pass, everything unknown is taken by its text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return self(str(value))

    def processor(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The last step before rendering: nothing secret, and what every line has stands first."""
        first = {key: event.pop(key) for key in _FIRST_KEYS if key in event}
        return {key: self.value(value) for key, value in (*first.items(), *event.items())}


def secrets_of(address: str) -> Iterator[str]:
    """The password and the tokens of an address, as they stand in it."""
    _, separator, rest = address.partition("://")
    if separator:
        userinfo = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[0]
        yield from filter(None, [userinfo.partition(":")[2]])
        tokens = (match[0][1:].partition("=") for match in _QUERY_SECRET.finditer(address))
        yield from (value for name, _, value in tokens if "user" not in name.lower())


def _forms(secret: str) -> Iterator[str]:
    """As it is and decoded; each of them also percent-encoded, escaped as in a literal, and within base64."""
    for text in {secret, unquote(secret)}:
        yield text
        yield from (quote(text, safe=""), quote(text), quote_plus(text))
        yield from (repr(text)[1:-1], json.dumps(text)[1:-1])
        for encode in (b64encode, urlsafe_b64encode):
            yield from (core for core in _base64_cores(text.encode(), encode) if len(core) >= _SHORTEST_BASE64)


def _base64_cores(secret: bytes, encode: Callable[[bytes], bytes]) -> Iterator[str]:
    """The characters that do not depend on what stands before and after it: of `user:secret`, encoded as a whole,
    these are what can be found. There are three ways in which its bits may lie."""
    for before in range(3):
        begin, end = -(-before * 8 // 6), (before + len(secret)) * 8 // 6
        yield encode(bytes(before) + secret)[begin:end].decode()
