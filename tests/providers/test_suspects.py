"""A picture that a provider died with is asked about alone from then on."""

import asyncio

from providers.base import Advice, Failure, Outcome, ProviderError, Request
from providers.guard import MAX_SUSPECTS
from tests.providers.fakes import Clock, Fake, an_answer, guarded
from tests.providers.samples import a_request, analysis, failure


class Fragile:
    """Dies of one picture, and with it all that it looks at; the next call finds it whole again."""

    def __init__(self, poison: Request) -> None:
        self._poison = poison
        self._dying = asyncio.Event()
        self._inside: set[int] = set()
        self.beside_the_poison: list[int] = []
        self.deaths = 0

    async def look(self, request: Request) -> Outcome:
        self._inside.add(id(request))
        dying = self._dying
        await asyncio.sleep(0)
        if request is self._poison:
            self.beside_the_poison.append(len(self._inside) - 1)
            self.deaths += 1
            self._dying = asyncio.Event()
            dying.set()
        await asyncio.sleep(0)
        self._inside.discard(id(request))
        if dying.is_set():
            return ProviderError(Failure.SERVER_ERROR, "went away", advice=Advice.ALONE)
        return an_answer(request)


async def test_the_one_picture_that_kills_the_provider_is_found_and_harms_no_others_again() -> None:
    other, poison = pictures = [a_request(), a_request()]
    fragile = Fragile(poison)
    provider = guarded(Fake(script=fragile.look), Clock())
    first = await asyncio.gather(*map(provider.ask, pictures))
    assert [failure(outcome) for outcome in first] == [Failure.SERVER_ERROR] * 2
    assert fragile.beside_the_poison == [1]
    second = await asyncio.gather(*map(provider.ask, pictures))
    assert failure(second[1]) is Failure.SERVER_ERROR
    assert fragile.beside_the_poison == [1, 0]
    assert analysis(second[0]).event_id == other.event_id


async def test_an_answer_clears_a_picture_of_suspicion() -> None:
    picture = a_request()
    died = ProviderError(Failure.SERVER_ERROR, "went away", advice=Advice.ALONE)
    fake = Fake(failing=died)
    provider = guarded(fake, Clock())
    await provider.ask(picture)
    assert picture.event_id in provider._suspects
    fake.failing = None
    await provider.ask(picture)
    assert not provider._suspects


async def test_no_more_pictures_are_suspected_than_can_be_remembered() -> None:
    died = ProviderError(Failure.SERVER_ERROR, "went away", advice=Advice.ALONE)
    provider = guarded(Fake(failing=died), clock := Clock())
    for _ in range(MAX_SUSPECTS + 10):
        await provider.ask(a_request())
        clock.pass_s(1000)  # past the breaker
    assert len(provider._suspects) == MAX_SUSPECTS
