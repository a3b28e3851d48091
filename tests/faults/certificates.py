"""A certificate authority of the test's own, by openssl."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
_NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


class Authority:
    """Its files lie in `folder`; `certificate` is what to trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.crt"
        self._openssl(f"req -x509 {_NEW_KEY} -days 2 -subj /CN=authority -keyout ca.key -out ca.crt")

    def issue(self, name: str, days: int = 2) -> ssl.SSLContext:
        """What a server of this name (`IP:…` or `DNS:…`) shows. With negative days it has expired."""
        self._openssl(
            f"req {_NEW_KEY} -subj /CN=server -addext subjectAltName={name} -keyout server.key -out server.csr"
        )
        self._openssl(
            f"x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy"
            f" -days {days} -out server.crt"
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._folder / "server.crt", self._folder / "server.key")
        return context

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self._folder, check=True, capture_output=True)
