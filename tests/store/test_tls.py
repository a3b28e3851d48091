"""TLS is verified, or there is none because someone said so; never something in between."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from pipeline.sql_errors import DATABASE_ERRORS, ErrorClass, classify
from pipeline.store import DatabaseSettings, connect, tls_of

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://box:pw@db.example.com/lva",
        "postgresql://box:pw@db.example.com:6543/lva?sslmode=prefer",
        "postgresql://box:p%40@203.0.113.7/lva?sslmode=require",
        "postgresql://box@127.0.0.1,db.example.com:5433/lva",
        "postgresql://box@[2001:db8::1]:5432/lva",
        "postgresql://box@/lva?host=db.example.com",
        "postgresql://box@localhost.example.com/lva",
    ],
)
def test_what_leaves_the_machine_is_verified(url: str) -> None:
    context = tls_of(url, DatabaseSettings())
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://lva@/postgres?host=%2Fvar%2Flib%2Flva&port=5432",
        "postgresql://lva@localhost/lva",
        "postgresql://lva@127.0.0.1:5433/lva",
        "postgresql://lva@[::1]:5433/lva",
    ],
)
def test_what_stays_on_the_machine_needs_none(url: str) -> None:
    assert tls_of(url, DatabaseSettings()) is False
    assert tls_of(url, DatabaseSettings(tls="on")) is not False


def test_off_has_to_be_said() -> None:
    url = "postgresql://box:pw@db.example.com/lva"
    assert tls_of(url, DatabaseSettings(tls="off")) is False
    assert tls_of(url + "?sslmode=disable", DatabaseSettings()) is False


@pytest.mark.parametrize("url", ["mysql://box@db/lva", "db.example.com", "postgresql://[::1/lva"])
def test_what_is_no_address_of_a_postgres_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ValidationError):
        DatabaseSettings(url=SecretStr(url))


def test_a_file_of_certificates_stands_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    context = {"base_dir": tmp_path}
    assert DatabaseSettings.model_validate({"ca_file": "ca.crt"}, context=context).ca_file == tmp_path / "ca.crt"
    with pytest.raises(ValidationError, match="no such file"):
        DatabaseSettings.model_validate({"ca_file": "other.crt"}, context=context)


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    key, crt = directory / f"{name}.key", directory / f"{name}.crt"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
        f" -addext subjectAltName=IP:{name} -keyout {key} -out {crt}".split(),
        check=True,
        capture_output=True,
    )
    return key, crt


@asynccontextmanager
async def a_server_with_a_certificate(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Says yes to TLS, as Postgres does, and then shows what it has."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)
            writer.write(b"S")
            await writer.start_tls(context)
            writer.close()
        except (OSError, EOFError):
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def error_of(key: Path, shown: Path, trusted: Path) -> ErrorClass:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown, key)
    async with a_server_with_a_certificate(context) as port:
        url = SecretStr(f"postgresql://box@127.0.0.1:{port}/lva")
        with pytest.raises(DATABASE_ERRORS) as caught:
            await connect(DatabaseSettings(url=url, tls="on", ca_file=trusted))
    return classify(caught.value)


@needs_openssl
async def test_a_certificate_is_believed_only_from_who_is_trusted_and_for_its_own_name(
    tmp_path: Path,
) -> None:
    """Case 13."""
    key, crt = certificate(tmp_path, "127.0.0.1")
    other_key, other = certificate(tmp_path, "127.0.0.2")
    assert await error_of(key, crt, trusted=other) is ErrorClass.CONFIGURATION
    assert await error_of(other_key, other, trusted=other) is ErrorClass.CONFIGURATION
    assert await error_of(key, crt, trusted=crt) is ErrorClass.TRANSIENT  # the handshake was good, then it hung up
