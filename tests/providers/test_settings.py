"""What the `[[providers]]` sections accept, and what they say otherwise."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from providers.settings import MoondreamSettings, OllamaSettings, ProviderSettings


def settings(**table: Any) -> Any:
    return TypeAdapter(ProviderSettings).validate_python(table)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:2020/v1",
        "http://192.168.1.5:11434",
        "http://gpu:8000/v1",
        "http://gpu.lan/v1",
        "https://api.example.com/v1",
    ],
)
def test_plain_http_stays_in_the_house(url: str) -> None:
    assert settings(kind="openai", base_url=url, model="m").base_url == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://api.example.com/v1", "must be https"),
        ("http://8.8.8.8/v1", "must be https"),
        ("http://169.254.169.254/latest", "link-local"),
        ("https://user:pw@api.example.com", "no user"),
        ("ftp://gpu/v1", "must be an address"),
        ("api.example.com", "must be an address"),
        ("https://api.example.com/v1?key=1", "no user, password, query"),
    ],
)
def test_an_odd_address_is_refused_with_a_reason(url: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(kind="openai", base_url=url, model="m")


def test_the_cloud_needs_a_key_and_keeps_its_rate() -> None:
    with pytest.raises(ValidationError, match="needs an api_key"):
        settings(kind="moondream", dialect="cloud")
    cloud = MoondreamSettings(kind="moondream", dialect="cloud", api_key="k")
    assert (cloud.calls_per_s, cloud.pictures_at_once) == (2.0, 1)
    assert "k" not in repr(cloud.api_key)


def test_each_dialect_has_its_own_concurrency() -> None:
    assert MoondreamSettings(kind="moondream", dialect="station", concurrency=8).pictures_at_once == 1
    assert MoondreamSettings(kind="moondream", dialect="local").pictures_at_once == 8
    assert OllamaSettings(kind="ollama", concurrency=3).pictures_at_once == 3


def test_a_days_budget_needs_a_price() -> None:
    with pytest.raises(ValidationError, match="usd_per_day needs"):
        settings(kind="ollama", usd_per_day=1)


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        settings(kind="detections", threshold=0.5)
