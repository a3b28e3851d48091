"""A test that fails beside a service shows the service's own log too."""

from collections.abc import Generator

import pytest

from tests.systemd.box import Service


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    service = getattr(item, "funcargs", {}).get("service")
    if report.when == "call" and report.failed and isinstance(service, Service):
        report.sections.append(("journal of the service", service.full_journal(lines=60)))
    return report
