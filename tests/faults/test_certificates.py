"""A server with a bad certificate gets nothing from us; the box goes on without it until it shows a good one."""

from pathlib import Path

import pytest

from tests.faults.certificates import Authority, needs_openssl
from tests.faults.conftest import NewBox
from tests.faults.lives import a_life
from tests.faults.proxy import a_proxy

LOOPBACK = "IP:127.0.0.1"


@needs_openssl
@pytest.mark.parametrize(
    ("name", "days", "words"),
    [(LOOPBACK, -1, "certificate has expired"), ("DNS:db.example.com", 2, "IP address mismatch")],
    ids=["expired", "of another host"],
)
async def test_a_bad_certificate_is_refused_and_told_and_a_good_one_is_taken_without_a_restart(
    new_box: NewBox, database: str, tmp_path: Path, name: str, days: int, words: str
) -> None:
    """Case 13."""
    authority = Authority(tmp_path)
    async with a_proxy(database, tls=authority.issue(name, days)) as proxy:
        secured = {"database": {"tls": "on", "ca_file": str(authority.certificate)}}
        box = new_box(database, through=proxy.dsn, config=secured)
        async with a_life(box):
            refused = await box.until_logged("upload.refused", 2)
            assert all(line["level"] == "error" and words in line["reason"] for line in refused)
            await box.until_accepted(50)
            proxy.tls = authority.issue(LOOPBACK)
            await box.until_logged("upload.resumed")
        await box.settle()


@needs_openssl
async def test_an_authority_that_is_not_trusted_is_nobody(new_box: NewBox, database: str, tmp_path: Path) -> None:
    """Case 13."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    async with a_proxy(database, tls=theirs.issue(LOOPBACK)) as proxy:
        secured = {"database": {"tls": "on", "ca_file": str(ours.certificate)}}
        box = new_box(database, through=proxy.dsn, config=secured)
        async with a_life(box):
            [refused, *_] = await box.until_logged("upload.refused")
            assert (
                "self-signed certificate in certificate chain" in refused["reason"]
                or "unable to get" in refused["reason"]
            )
            await box.until_accepted(50)
            proxy.tls = ours.issue(LOOPBACK)
            await box.until_logged("upload.resumed")
        await box.settle()
