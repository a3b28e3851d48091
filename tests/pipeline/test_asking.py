import asyncio
from contextlib import AbstractAsyncContextManager

from pipeline.asking import Asking


class Notes:
    """Who was at work when."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def ask(self, name: str, manner: AbstractAsyncContextManager[None], go_on: asyncio.Event) -> None:
        async with manner:
            self.said.append(f"{name} begins")
            await go_on.wait()
        self.said.append(f"{name} ends")


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_any_may_be_asked_about_together_and_a_suspect_alone() -> None:
    asking, notes, go_on = Asking(), Notes(), [asyncio.Event() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        group.create_task(notes.ask("one", asking.together(), go_on[0]))
        group.create_task(notes.ask("two", asking.together(), go_on[1]))
        await turns()
        group.create_task(notes.ask("suspect", asking.alone(), go_on[2]))
        await turns()
        group.create_task(notes.ask("late", asking.together(), go_on[3]))
        group.create_task(notes.ask("other suspect", asking.alone(), go_on[4]))
        await turns()
        assert notes.said == ["one begins", "two begins"]
        go_on[0].set()
        await turns()
        assert "suspect begins" not in notes.said
        go_on[1].set()
        await turns()
        assert notes.said[-1] == "suspect begins"
        go_on[2].set()
        go_on[3].set()
        go_on[4].set()
    assert notes.said.index("suspect ends") < min(
        notes.said.index("late begins"), notes.said.index("other suspect begins")
    )
    late, other = (notes.said.index(f"{name} begins") for name in ("late", "other suspect"))
    assert notes.said[min(late, other) + 1].endswith("ends")


async def test_a_wish_that_is_given_up_holds_up_nobody() -> None:
    asking, notes, go_on = Asking(), Notes(), asyncio.Event()
    one = asyncio.create_task(notes.ask("one", asking.together(), go_on))
    await turns()
    suspect = asyncio.create_task(notes.ask("suspect", asking.alone(), go_on))
    waiting = asyncio.create_task(notes.ask("late", asking.together(), go_on))
    await turns()
    suspect.cancel()
    await turns()
    assert notes.said == ["one begins", "late begins"]
    go_on.set()
    await asyncio.gather(one, waiting)
