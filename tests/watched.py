"""What a page in the browser did that it should not: errors, what is forbidden, other hosts."""

from __future__ import annotations

from playwright.sync_api import Page

# What a browser says by itself of an answer that is no success: it is what is tried.
FAILED_FETCH = "Failed to load resource: the server responded with a status of"


class Watched:
    """What a page did that it should not."""

    def __init__(self, page: Page, origin: str) -> None:
        self.faults: list[str] = []
        self.asked: list[str] = []
        self._origin = origin
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not text.startswith(FAILED_FETCH):
            self.faults.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        self.asked.append(url.removeprefix(self._origin))
        if not url.startswith(f"{self._origin}/"):
            self.faults.append(f"asked for {url}")
