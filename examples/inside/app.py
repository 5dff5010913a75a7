import os

from aiohttp import web
from gatelog import SESSION, Config, load_config, public, requires, setup


async def orders(request: web.Request) -> web.Response:
    return web.json_response({"user": str(request[SESSION].subject_id)})


@requires("admin")
async def report(request: web.Request) -> web.Response:
    return web.json_response({"orders": 0})


@public
async def prices(request: web.Request) -> web.Response:
    return web.json_response({"apple": 1})


def make_app(config: Config) -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/orders", orders), web.get("/report", report)])
    app.add_routes([web.get("/prices", prices)])
    setup(app, config)
    return app


if __name__ == "__main__":
    config = load_config(os.environ)
    web.run_app(make_app(config), host=config.host, port=config.port)
