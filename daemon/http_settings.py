"""The `[http]` section of the configuration."""

from pydantic import Field

from providers.settings import Section


class HttpSettings(Section):
    enabled: bool = Field(True, description="false: no HTTP")
    host: str = Field(
        "127.0.0.1", min_length=1, description="Where it listens; beyond loopback, everyone who gets there can read it"
    )
    port: int = Field(8577, ge=1, le=65535, description="And on which port")

    @property
    def address(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"
