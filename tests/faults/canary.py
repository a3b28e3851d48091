"""Secrets that can be recognised, and looking for them: in texts, in files, in what processes show of themselves."""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from tests.processes import descendants

CANARIES = {
    "camera password": "kanarie/door@7!q",
    "camera password before": "kanarie/before#3 x",
    "camera token": "kanarie-gate-token-55",
    "provider key": "sk-kanarie-0815-key",
    "database password": "kanarie:pg$9",
}


def forms(secret: str) -> Iterator[bytes]:
    """As it is, as it stands in addresses, and in the middle of any base64 that holds it."""
    yield from {text.encode() for text in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret))}
    for before in range(3):
        yield b64encode(b"x" * before + secret.encode() + b"xxx")[4:-8]


class Search:
    """Collects what was found: in which place, which secret."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = defaultdict(set)
        self.looked: set[str] = set()
        self._forms = {name: list(forms(secret)) for name, secret in CANARIES.items()}

    def look(self, place: str, content: bytes | str) -> None:
        self.looked.add(place)
        content = content.encode("utf-8", "replace") if isinstance(content, str) else content
        for name, listed in self._forms.items():
            if any(form in content for form in listed):
                self.found[place].add(name)

    def look_into(self, place: str, folder: Path) -> None:
        """Every file of the folder, at any depth."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.look(place, file.read_bytes())

    def look_at_processes(self, place: str, pid: int) -> None:
        """What anyone may read of this process and of those below it."""
        for each in (pid, *descendants(pid)):
            for name in ("cmdline", "environ"):
                self.look(f"{place} {name}", Path(f"/proc/{each}/{name}").read_bytes())
