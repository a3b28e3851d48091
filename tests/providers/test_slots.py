"""A few pictures at the same time, or one alone."""

import asyncio

from providers.slots import Slots


class Room:
    """Notes who is in it, and waits for each to be let out."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.inside: set[str] = set()
        self._gates: dict[str, asyncio.Event] = {}

    async def visit(self, name: str) -> None:
        self._gates[name] = asyncio.Event()
        async with self._slots.all() if name.startswith("alone") else self._slots.one():
            self.inside.add(name)
            await self._gates[name].wait()
            self.inside.remove(name)

    async def let_out(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_wants_to_be_alone_waits_for_the_others_and_is_alone() -> None:
    room = Room(Slots(3))
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b", "alone", "c", "d"):
            group.create_task(room.visit(name))
        await settled()
        assert room.inside == {"a", "b"}
        await room.let_out("a", "b")
        assert room.inside == {"alone"}
        await room.let_out("alone")
        assert room.inside == {"c", "d"}
        await room.let_out("c", "d")


async def test_two_who_want_to_be_alone_come_one_after_the_other() -> None:
    room = Room(Slots(2))
    async with asyncio.TaskGroup() as group:
        for name in ("a", "alone 1", "alone 2", "b"):
            group.create_task(room.visit(name))
        await settled()
        for name in ("a", "alone 1", "alone 2", "b"):
            assert room.inside == {name}
            await room.let_out(name)


async def test_who_gives_up_waiting_to_be_alone_leaves_the_slots_to_others() -> None:
    room = Room(Slots(2))
    async with asyncio.TaskGroup() as group:
        group.create_task(room.visit("a"))
        await settled()
        waiting = asyncio.create_task(room.visit("alone"))
        await settled()
        waiting.cancel()
        await asyncio.wait({waiting})
        group.create_task(room.visit("b"))
        await settled()
        assert room.inside == {"a", "b"}
        await room.let_out("a", "b")
