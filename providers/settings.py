"""The `[[providers]]` sections of the configuration, one model per kind, and the base of every section."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Section(BaseModel):
    """A table of the configuration file: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, protected_namespaces=())


class CommonProviderSettings(Section):
    """What every provider that is reached over HTTP has."""

    name: str = Field("", description="How rows and logs call it; empty: its kind")
    timeout_s: float = Field(30.0, gt=0, le=600, description="Total time for one event, all its questions and retries included")
    connect_timeout_s: float = Field(3.0, gt=0, le=60)
    concurrency: int = Field(1, ge=1, le=64, description="Pictures asked about at the same time")
    rate_per_s: float | None = Field(None, gt=0, description="Calls a second at most; empty: no limit")
    max_attempts: int = Field(3, ge=1, le=10, description="Tries of one call, within timeout_s")
    retry_budget: float = Field(0.2, ge=0, le=1, description="Retries as a share of calls, over the last minute")
    usd_per_million_tokens_in: float = Field(0.0, ge=0)
    usd_per_million_tokens_out: float = Field(0.0, ge=0)
    usd_per_day: float | None = Field(None, ge=0, description="Not asked any more today (UTC) once this is spent; empty: no limit")


class MoondreamSettings(CommonProviderSettings):
    kind: Literal["moondream"]
    dialect: Literal["cloud", "station", "local"] = "station"
    base_url: str = Field("", description="Empty: the dialect's usual address")
    model: str = Field("", description="Sent to the cloud, which requires it; empty: moondream3.1-9B-A2B there")
    api_key: SecretStr = SecretStr("")


class OllamaSettings(CommonProviderSettings):
    kind: Literal["ollama"]
    base_url: str = "http://127.0.0.1:11434"
    model: str = "llava:7b"
    keep_alive: str = "30m"
    num_ctx: int = Field(4096, ge=512)
    max_tokens: int = Field(256, ge=8)


class OpenAISettings(CommonProviderSettings):
    kind: Literal["openai"]
    base_url: str = Field(description="Up to and including /v1")
    model: str
    api_key: SecretStr = SecretStr("")
    max_tokens: int = Field(256, ge=8)


class DetectionsSettings(Section):
    """The last resort: tells what the detector saw, and marks the row degraded."""

    kind: Literal["detections"]
    name: str = ""


ProviderSettings = Annotated[
    MoondreamSettings | OllamaSettings | OpenAISettings | DetectionsSettings, Field(discriminator="kind")
]
