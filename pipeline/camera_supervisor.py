"""Keeps one camera's process alive and connected: starts it, kills it when stuck, tries again for ever."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from pipeline.backoff import Backoff
from pipeline.camera_child import CameraChild
from pipeline.camera_link import Command, DetectorInput, LossCause, Message
from pipeline.camera_settings import CameraSettings
from providers.base import harmless

log = structlog.get_logger()

START_S = 30.0
"""A new process may take this long to load on a busy box before it counts as stuck."""

GRACE_S = 0.2
"""After a stall of our own loop, messages may lie unread: look once more before killing."""

STEADY_S = 10.0
"""A connection that lasted this long worked: the next failure is a new one, and is retried soon."""

AUTH_RETRY_S = 30.0
AUTH_RETRY_MAX_S = 600.0
"""Cameras lock accounts after a few wrong passwords."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How one connection, or one try of it, came to nothing."""

    cause: LossCause
    reason: str


class Supervisor:
    """The life of one camera's process. `on_message` gets what is not about that life."""

    def __init__(
        self,
        settings: CameraSettings,
        input_size: DetectorInput,
        on_message: Callable[[int, bytes], None],
        on_loss: Callable[[Loss, float], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._settings, self._input_size = settings, input_size
        self._on_message, self._on_loss, self._on_gone = on_message, on_loss, on_gone
        self._verdict: asyncio.Future[Loss | None] | None = None
        self._opened_s: float | None = None
        self._heard_s, self._patience_s = 0.0, START_S
        self._last_cause: LossCause | None = None
        self._spawning: asyncio.Task[None] | None = None
        self.child: CameraChild | None = None
        self.next_seq = 0
        self.restarts = 0

    async def run(self) -> None:
        """One connection after the other, until a file has ended."""
        usual = Backoff(self._settings.retry_s, self._settings.retry_max_s)
        locked_out = Backoff(AUTH_RETRY_S, AUTH_RETRY_MAX_S, floor_share=0.5)
        while (loss := await self._connection()) is not None:
            if loss.cause is LossCause.MEMORY:
                await self._replace()
            if self._was_steady():
                usual.reset()
                locked_out.reset()
            wait_s = (locked_out if loss.cause is LossCause.AUTH else usual).next_s()
            self._last_cause = loss.cause
            self._on_loss(loss, wait_s)
            await asyncio.sleep(wait_s)

    async def _replace(self) -> None:
        """It ends by itself; but no new connection may be asked of it meanwhile."""
        self.restarts += 1
        if self.child is not None:
            await self.child.kill()

    async def kill(self) -> None:
        """End the process, whatever it is doing, and reap it."""
        self._decide(None)
        if self._spawning is not None:
            await asyncio.wait({self._spawning})
            if self._spawning.exception() is not None:
                return
        if self.child is not None:
            await self.child.kill()

    def overdue_s(self) -> float:
        """How long ago a silent process should have been killed; 0 while there is nothing to be heard."""
        if self._verdict is None or self._verdict.done():
            return 0.0
        return max(0.0, asyncio.get_running_loop().time() - self._heard_s - self._patience_s)

    async def _connection(self) -> Loss | None:
        """One connection, from the wish for it until it is lost; None if it ended because the file did."""
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[Loss | None] = loop.create_future()
        self._verdict = verdict
        self._opened_s = None
        self._heard_s = loop.time()
        try:
            child = self.child or await self._spawn()
        except OSError as error:
            self.child = None
            return Loss(LossCause.CRASHED, f"cannot start the camera process: {error.strerror}")
        self._heard_s = loop.time()
        child.send(Command.OPEN)
        while not verdict.done():
            left_s = self._heard_s + self._patience_s - loop.time()
            await asyncio.wait({verdict}, timeout=min(left_s, self._settings.stall_s))
            if self._heard_s + self._patience_s <= loop.time() and not verdict.done():
                await self._kill_if_stuck(child, verdict)
        return verdict.result()

    async def _spawn(self) -> CameraChild:
        child = self.child = CameraChild(self._hear, self._mourn)
        self._patience_s = max(START_S, self._settings.stall_s)
        spawning = child.spawn(self._settings, self._input_size, self.next_seq)
        # A spawn that is cancelled half-way leaves a process that nobody knows: let it finish, then kill it.
        self._spawning = asyncio.create_task(spawning, name=f"camera {self._settings.name}: spawn")
        await asyncio.shield(self._spawning)
        return child

    async def _kill_if_stuck(self, child: CameraChild, verdict: asyncio.Future[Loss | None]) -> None:
        await asyncio.wait({verdict}, timeout=GRACE_S)
        silent_s = asyncio.get_running_loop().time() - self._heard_s
        if silent_s >= self._patience_s and not verdict.done():
            self.restarts += 1
            self._decide(Loss(LossCause.STALLED, f"the camera process is stuck, silent for {silent_s:.0f} s"))
            await child.kill()

    def _was_steady(self) -> bool:
        return self._opened_s is not None and self._heard_s - self._opened_s >= STEADY_S

    def _hear(self, kind: int, payload: bytes) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if kind == Message.READY:
            self._patience_s = self._settings.stall_s
        elif kind == Message.LOST:
            cause, reason = json.loads(payload)
            self._decide(Loss(LossCause(cause), harmless(self._settings.redact(reason))))
        elif kind == Message.ENDED:
            self._decide(None)
        else:
            if kind == Message.OPENED:
                self._opened_s, self._last_cause = self._heard_s, None
            self._on_message(kind, payload)

    def _mourn(self) -> None:
        """The process is over: by our hand, or it crashed."""
        child, self.child = self.child, None
        self._on_gone()
        if child is None or self._verdict is None or self._verdict.done():
            return
        self.restarts += 1
        if self._last_cause is not LossCause.CRASHED:
            lines = [harmless(self._settings.redact(line)) for line in child.stderr]
            log.warning("camera.stderr", camera=self._settings.name, lines=lines)
        self._decide(Loss(LossCause.CRASHED, child.how_it_ended))

    def _decide(self, loss: Loss | None) -> None:
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(loss)
