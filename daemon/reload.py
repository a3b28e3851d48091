"""A new configuration while the daemon runs: what can change does, what did not change is left alone."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from daemon.config import Config, ConfigError, check_labels
from daemon.core import Core
from daemon.model_servers import ModelServers
from daemon.watching import Watching
from pipeline.store import Store
from providers.open import ConfiguredChain

log = structlog.get_logger()

LIVE = ("cameras", "triggers", "tracker", "questions", "providers", "database")
"""Sections that hold at once. All others hold from the next start on; of `database`, its address and TLS hold."""
_LIVE_DATABASE = ("url", "tls", "ca_file")


@dataclass(slots=True)
class LoadConfig:
    """How to read the file again; raises ConfigError. Whoever wants that sets `wanted`.

    `keep_secret` is told every secret of the new file before anything else sees it.
    """

    read: Callable[[], tuple[Config, Iterable[str]]]
    keep_secret: Callable[[Iterable[str]], None]
    wanted: asyncio.Event = field(default_factory=asyncio.Event)


class Reload:
    """`refused` is why the last configuration was not taken; empty when it was."""

    def __init__(
        self,
        config: Config,
        core: Core,
        watching: Watching,
        chain: ConfiguredChain,
        store: Store,
        labels: frozenset[str],
        model_servers: ModelServers,
    ) -> None:
        self.refused = ""
        self._config = config
        self._core = core
        self._watching = watching
        self._chain = chain
        self._store = store
        self._labels = labels
        self._model_servers = model_servers

    async def serve_for_ever(self, load: LoadConfig | None) -> None:
        """At once done where nobody can ask for it."""
        while load is not None:
            await load.wanted.wait()
            load.wanted.clear()
            await self.once(load)

    async def once(self, load: LoadConfig) -> None:
        """All of it or nothing: what is wrong is found before anything is changed."""
        try:
            config, secrets = await asyncio.to_thread(load.read)
            load.keep_secret(secrets)
            check_labels(config, self._labels)
        except ConfigError as error:
            self.refused = error.lines[0]
            log.error("config.refused", errors=list(error.lines), hint="the configuration before goes on")
            return
        self.refused = ""
        await self._apply(config)

    async def _apply(self, new: Config) -> None:
        old, live = self._config, self._live_part_of(new)
        self._chain.apply(live.providers)
        self._model_servers.apply(live.providers)
        self._core.use(live)
        if live.database != old.database:
            await self._store.use(live.database)
        cameras = await self._watching.apply(live)
        self._config = live
        log.info(
            "config.reloaded",
            changed=[name for name in LIVE if getattr(old, name) != getattr(live, name)],
            cameras_added=list(cameras.added),
            cameras_removed=list(cameras.removed),
            cameras_restarted=list(cameras.restarted),
            needs_restart=[name for name in type(new).model_fields if getattr(live, name) != getattr(new, name)],
        )

    def _live_part_of(self, new: Config) -> Config:
        """The running configuration with those values of the new one that can hold at once."""
        changed = {name: getattr(new, name) for name in LIVE if name != "database"}
        address = {name: getattr(new.database, name) for name in _LIVE_DATABASE}
        if self._is_embedded(self._config) == self._is_embedded(new):
            changed["database"] = self._config.database.model_copy(update=address)
        return self._config.model_copy(update=changed)

    @staticmethod
    def _is_embedded(config: Config) -> bool:
        return not config.database.url.get_secret_value()
