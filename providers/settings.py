"""The `[[providers]]` sections of the configuration, one model per kind, and the base of every section."""

from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from providers.local.settings import ModelSettings
from providers.section import Section as Section

CLOUD_RATE_PER_S = 2.0
"""What Moondream Cloud grants a key without a balance of ten dollars."""

LOCAL_CONCURRENCY = 8
"""Our own model server makes one batch of what arrives together."""

PRIVATE_SUFFIXES = (".local", ".lan", ".internal", ".home.arpa", ".localhost")


def checked_url(url: str) -> str:
    """An http(s) address without credentials; plain http only where pictures stay on the box or its own
    network."""
    if not url:
        return url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no user, password, query or fragment; a key goes into api_key")
    _refuse_odd_address(parts.hostname)
    if parts.scheme == "http" and not _is_private(parts.hostname):
        raise ValueError("must be https: over plain http, pictures would cross the internet in the clear")
    return url.rstrip("/")


def _refuse_odd_address(host: str) -> None:
    try:
        address = ip_address(host)
    except ValueError:
        return
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise ValueError(f"must not be the link-local, multicast or empty address {host}")


def _is_private(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.lower().endswith(PRIVATE_SUFFIXES)


BaseUrl = Annotated[str, AfterValidator(checked_url)]


class CommonProviderSettings(Section):
    """What every provider that is reached over HTTP has."""

    name: str = Field("", description="How rows and logs call it; empty: its kind")
    timeout_s: float = Field(
        30.0, gt=0, le=600, description="Total time for one event, all its questions and retries included"
    )
    connect_timeout_s: float = Field(3.0, gt=0, le=60, description="To a connection")
    concurrency: int | None = Field(None, ge=1, le=64, description="Pictures asked about at the same time; empty: 1")
    rate_per_s: float | None = Field(None, gt=0, description="Calls a second at most; empty: no limit")
    max_attempts: int = Field(3, ge=1, le=10, description="Tries of one call, within timeout_s")
    retry_budget: float = Field(0.2, ge=0, le=1, description="Retries as a share of calls, over the last minute")
    usd_per_million_tokens_in: float = Field(0.0, ge=0, description="Price, for cost_usd and the budget")
    usd_per_million_tokens_out: float = Field(0.0, ge=0, description="Price, for cost_usd and the budget")
    usd_per_day: float | None = Field(
        None, ge=0, description="Not asked any more today (UTC) once this is spent; empty: no limit"
    )

    @model_validator(mode="after")
    def _money_needs_a_price(self) -> Self:
        if self.usd_per_day is not None and not self.is_priced:
            raise ValueError("usd_per_day needs usd_per_million_tokens_in or usd_per_million_tokens_out")
        return self

    @property
    def is_priced(self) -> bool:
        return self.usd_per_million_tokens_in > 0 or self.usd_per_million_tokens_out > 0

    @property
    def pictures_at_once(self) -> int:
        return self.concurrency or 1

    @property
    def calls_per_s(self) -> float | None:
        return self.rate_per_s


class MoondreamSettings(CommonProviderSettings):
    kind: Literal["moondream"]
    dialect: Literal["cloud", "station", "local"] = Field("station", description="Who answers there")
    base_url: BaseUrl = Field("", description="Up to and including /v1; empty: the dialect's usual address")
    model: str = Field("", description="Sent to the cloud, which requires it; empty: moondream3.1-9B-A2B there")
    api_key: SecretStr = Field(
        SecretStr(""), description="Needed by the cloud, and by our own server if it has a token"
    )
    managed: bool = Field(False, description="The daemon itself starts our own server, and keeps it alive")
    server: ModelSettings | None = Field(None, description="Of a managed server: which model, and how")

    @model_validator(mode="after")
    def _cloud_needs_a_key(self) -> Self:
        if self.dialect == "cloud" and not self.api_key.get_secret_value():
            raise ValueError("the cloud dialect needs an api_key")
        return self

    @model_validator(mode="after")
    def _what_is_managed_is_ours_and_here(self) -> Self:
        if not self.managed:
            if self.server:
                raise ValueError("server is for a server that is managed: add managed = true")
            return self
        if self.dialect != "local":
            raise ValueError('only a server of dialect = "local" can be managed')
        if not self.server:
            raise ValueError("a managed server needs [providers.server] with the folder of its model")
        if self.base_url and urlsplit(self.base_url).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError(f"a managed server is on this box, and {self.base_url} is not")
        return self

    @property
    def pictures_at_once(self) -> int:
        """Station has one worker, and a second picture in its queue only makes both late."""
        if self.dialect == "station":
            return 1
        return self.concurrency or (LOCAL_CONCURRENCY if self.dialect == "local" else 1)

    @property
    def calls_per_s(self) -> float | None:
        return self.rate_per_s or (CLOUD_RATE_PER_S if self.dialect == "cloud" else None)


class OllamaSettings(CommonProviderSettings):
    kind: Literal["ollama"]
    base_url: BaseUrl = Field("http://127.0.0.1:11434", description="Of the server")
    model: str = Field("llava:7b", min_length=1, description="One that can see, and was pulled")
    keep_alive: str = Field("30m", description="How long the model stays loaded; -1: for ever")
    num_ctx: int = Field(4096, ge=512, description="Context in tokens; picture and questions must fit")
    max_tokens: int = Field(256, ge=8, description="Longest answer; one that is cut off is none")


class OpenAISettings(CommonProviderSettings):
    kind: Literal["openai"]
    base_url: BaseUrl = Field(min_length=1, description="Up to and including /v1")
    model: str = Field(min_length=1, description="As the server calls it")
    api_key: SecretStr = Field(SecretStr(""), description="Sent as a bearer token; empty: none")
    max_tokens: int = Field(256, ge=8, description="Longest answer; one that is cut off is none")


class DetectionsSettings(Section):
    """The last resort: tells what the detector saw, and marks the row degraded."""

    kind: Literal["detections"]
    name: str = ""


ProviderSettings = Annotated[
    MoondreamSettings | OllamaSettings | OpenAISettings | DetectionsSettings, Field(discriminator="kind")
]


def provider_names(settings: tuple[ProviderSettings, ...]) -> tuple[str, ...]:
    """How each is called. Raises ValueError where two would be called the same: rows must say who
    answered."""
    names = tuple(one.name or one.kind for one in settings)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two providers are called {name!r}: give each its own name")
    return names
