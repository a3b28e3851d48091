"""A server that speaks our own model server's dialect and always sees the same; prints its port. Run as a process."""

import asyncio

from aiohttp import web

BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.6}
SEEN = "Is there a person in the picture?"
ABOUT = "Two people stand in a yard."


async def query(request: web.Request) -> web.Response:
    asked = await request.json()
    if not (choices := asked.get("choices")):
        return web.json_response({"answer": ABOUT})
    answer = "yes" if asked["question"] == SEEN else "no"
    likelihoods = {choice: 0.9 if choice == answer else 0.1 for choice in choices}
    return web.json_response({"answer": answer, "probabilities": likelihoods, "mass": 0.8})


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
