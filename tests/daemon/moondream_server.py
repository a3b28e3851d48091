"""A server that speaks Moondream's dialect and always sees the same; prints its port. Run as a process."""

import asyncio

from aiohttp import web

BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.6}
ANSWERS = {"danger": "no", "visible in the picture": "person, person", "Describe": "Two people stand in a yard."}


async def query(request: web.Request) -> web.Response:
    asked = await request.json()
    answer = next((said for words, said in ANSWERS.items() if words in asked["question"]), "I can't tell.")
    return web.json_response({"answer": answer})


async def detect(_request: web.Request) -> web.Response:
    return web.json_response({"objects": [BOX, {**BOX, "x_min": 0.5, "x_max": 0.7}]})


async def main() -> None:
    app = web.Application(client_max_size=16 * 2**20)
    app.add_routes([web.post("/v1/query", query), web.post("/v1/detect", detect)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
