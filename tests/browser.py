"""A real browser: Debian's Chromium, one for a run of tests, which Playwright drives."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import psutil
from playwright.sync_api import Page, sync_playwright

PATIENCE_MS = 20_000  # of every step
ARGUMENTS = (
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",  # which may be small in a container
    "--host-resolver-rules=MAP *.example 127.0.0.1",
)
ResultT = TypeVar("ResultT")


class Browser:
    """Chromium, in a thread of its own: what serves its pages runs in the test's event loop."""

    def __init__(self) -> None:
        program = shutil.which("chromium")
        assert program, "install chromium (apt-get install chromium): pages are tried for real here"
        self._thread = ThreadPoolExecutor(1, "browser")
        self._thread.submit(self._start, program).result()

    def _start(self, program: str) -> None:
        before = set(psutil.Process().children())
        self._driver = sync_playwright().start()
        self._chromium = self._driver.chromium.launch(executable_path=program, args=[*ARGUMENTS])
        self._processes = [
            process
            for child in set(psutil.Process().children()) - before
            for process in (child, *child.children(recursive=True))
        ]

    async def run(self, steps: Callable[[Page], ResultT], **options: Any) -> ResultT:
        """Do this with a page of a profile that knows nothing yet, and return what comes of it.

        ``options``: of the profile, as Playwright names them (``java_script_enabled``).
        """
        run = partial(self._run, steps, options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _run(self, steps: Callable[[Page], ResultT], options: dict[str, Any]) -> ResultT:
        with self._chromium.new_context(ignore_https_errors=True, **options) as context:
            context.set_default_timeout(PATIENCE_MS)
            return steps(context.new_page())

    def close(self) -> None:
        """End it, and see that nothing of it is left."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()
        left = psutil.wait_procs(self._processes, timeout=10)[1]
        assert not left, f"the browser left processes behind: {left}"

    def _close(self) -> None:
        self._chromium.close()
        self._driver.stop()


FETCH = """async ([path, options]) => {
    const answer = await fetch(path, { credentials: "include", ...options });
    return [answer.status, answer.redirected, await answer.text()];
}"""


def fetched(page: Page, path: str, **options: object) -> tuple[int, bool, str]:
    """What a script of this page gets by ``fetch``: status, whether redirected, and the body."""
    status, redirected, body = page.evaluate(FETCH, [path, options])
    return int(status), bool(redirected), str(body)
