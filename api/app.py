"""The web application: REST, event streams and pages over one database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from socket import socket

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.live import Live
from api.pages.render import error_page
from api.routes import docs, events, lifecycle, live, models, pages, searches
from api.routes.errors import add_error_handlers
from api.routes.guard import Guard
from api.settings import Settings
from api.store.database import Database

SHUTDOWN_SECONDS = 5
"""How long an answer that is on its way may hold up the end of the server."""

_DESCRIPTION = """Cuts compact language models out of a large one: submit a spec, watch its search, download its model.
Every error is an ErrorView, whose message is the sentence that the command line prints."""


def create_app(settings: Settings) -> FastAPI:
    """The application over the settings' database, whose tables are there already.

    `app.state` holds `settings`, `database` and `live`. Raises SettingError for a database URL that cannot be used.
    """
    database = Database(settings.database)
    news = Live(database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with news.running():
            yield
        database.close()

    app = FastAPI(
        title="Topiary",
        description=_DESCRIPTION,
        version=version("topiary-nas"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own page loads its scripts from another server; ours is plain.
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.settings, app.state.database, app.state.live = settings, database, news
    app.add_middleware(Guard)
    add_error_handlers(app, error_page)
    for module in (searches, lifecycle, models, events, live, docs, pages):
        app.include_router(module.router)
    app.mount("/static", pages.static_files(), name="static")
    return app


class Server(uvicorn.Server):
    """uvicorn, ending the app's event streams before it waits for open answers: these would never end by themselves."""

    def __init__(self, app: FastAPI, *, host: str, port: int) -> None:
        super().__init__(
            uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS)
        )
        self._live: Live = app.state.live

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._live.stop()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # Of readers that are stuck, with bytes that nobody fetches.


def _operation_id(route: APIRoute) -> str:
    return route.name
