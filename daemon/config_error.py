"""What is said of a configuration that can't be used. Apart from the rest, because every command needs it."""

from pathlib import Path

EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: what a service manager is told when the configuration is wrong."""


class ConfigError(Exception):
    """The configuration can't be used; `lines` says what, where, and what was expected, one line each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines

    def of(self, path: Path) -> "ConfigError":
        """The same, saying in which file."""
        return ConfigError([f"{path}: {line}" for line in self.lines])
