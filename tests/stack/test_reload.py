"""``gatelog serve --reload``: the workers follow the source of the application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import pytest
from gatelog.config import Config
from gatelog.errors import ConfigError, OperatorError
from gatelog.host import reload
from gatelog.host.reload import Sources

from tests.stack.service import START_TIMEOUT_S, Service, run_command
from tests.waiting import eventually

APP = """
from aiohttp import web
from gatelog import public
from shop.words import WORD

@public
async def word(request):
    return web.Response(text=WORD)

routes = [web.get("/word", word)]
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the working directory; returns the module that tests change."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "app.py").write_text(APP)
    words = folder / "words.py"
    words.write_text("WORD = 'one'\n")
    monkeypatch.chdir(tmp_path)
    return words


@pytest.fixture
def start(data_dir: Path) -> Iterator[Callable[[], Service]]:
    started: list[Service] = []

    def begin() -> Service:
        settings = {"GATELOG_APP": "shop.app:routes", "GATELOG_WORKERS": "1"}
        started.append(Service(data_dir, arguments=("--reload",), **settings))
        started[-1].wait_until_announced()
        return started[-1]

    yield begin
    for service in started:
        assert service.stop() == 0


def says(service: Service, word: str) -> None:
    """Wait until the application says this."""

    def said() -> bool:
        try:
            return service.request("GET", "/api/word").body == word.encode()
        except (OSError, HTTPException):
            return False

    eventually(said, START_TIMEOUT_S, f"the word {word!r}: {service.logged}")


def test_the_workers_follow_the_source(shop: Path, start: Callable[[], Service]) -> None:
    service = start()
    says(service, "one")
    (database,) = service.postgres()
    cookie = logged_in(service)
    for word in ("two", "ten", "six"):  # of one length, and all within a second or two
        shop.write_text(f"WORD = '{word}'\n")
        says(service, word)
    assert service.postgres() == [database], "it is not started again"
    eventually(lambda: service.accepts(cookie), START_TIMEOUT_S, "the session")


def logged_in(service: Service) -> str:
    assert service.register() == 201
    return service.log_in().cookie


def test_an_error_is_told_and_the_next_save_mends_it(
    shop: Path, start: Callable[[], Service]
) -> None:
    service = start()
    says(service, "one")
    shop.write_text("WORD = 'two\n")
    service.wait_until_logged("SyntaxError: unterminated string literal")
    assert "words.py, line 1" in service.logged
    assert "Traceback" not in service.logged
    shop.write_text("WORD = nothing_like_it\n")
    service.wait_until_logged("NameError: name 'nothing_like_it' is not defined")
    shop.write_text("WORD = 'two'\n")
    says(service, "two")


def test_it_may_begin_with_an_error(shop: Path, start: Callable[[], Service]) -> None:
    shop.write_text("WORD = (\n")
    service = start()
    service.wait_until_logged("SyntaxError")
    shop.write_text("WORD = 'mended'\n")
    says(service, "mended")


def test_without_an_application_there_is_nothing_to_reload(data_dir: Path) -> None:
    done = run_command(data_dir, "serve", "--reload")
    assert done.returncode == 1
    assert "GATELOG_APP: name the application" in done.stderr


# --- what is watched


def config(folder: Path, app: str = "shop.app:routes") -> Config:
    return Config(app=app, data_dir=str(folder / "var"))


def test_only_sources_are_watched(shop: Path, tmp_path: Path) -> None:
    for name in (".git", "var", "__pycache__", "venv", "node_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    found = Sources(config(tmp_path)).look()
    assert sorted(found) == [str(shop.parent / n) for n in ("__init__.py", "app.py", "words.py")]


def test_an_application_elsewhere_is_watched(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "market.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(shop) in Sources(config(tmp_path)).look()
    assert list(Sources(config(tmp_path, "market:app")).look()) == [str(tmp_path / "market.py")]
    assert Sources(config(tmp_path, "nowhere_at_all:app")).look() == {}


def test_too_much_is_refused(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "MAX_FILES", 2)
    with pytest.raises(OperatorError, match="more than 2 source files"):
        Sources(config(tmp_path))
    with pytest.raises(ConfigError, match="GATELOG_APP"):
        Sources(Config())


async def test_a_change_is_told_when_it_is_whole(shop: Path, tmp_path: Path) -> None:
    looked, loop = asyncio.Event(), asyncio.get_running_loop()

    class Telling(Sources):
        def look(self) -> reload.Look:
            found = super().look()
            loop.call_soon_threadsafe(looked.set)
            return found

    sources = Telling(config(tmp_path))
    await asyncio.sleep(0)
    looked.clear()
    changing = reload.changes(sources)
    waiting = asyncio.ensure_future(anext(changing))
    await looked.wait()
    shop.unlink()
    (shop.parent / "more.py").write_text("")
    assert await waiting == sorted(map(str, (shop, shop.parent / "more.py")))
    await changing.aclose()
