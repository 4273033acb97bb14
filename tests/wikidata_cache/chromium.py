"""A headless Chromium, driven over its DevTools pipe: no port, no library."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = "no chromium on this machine: make browser, or apt install chromium"
BROWSER = [pytest.mark.slow, pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason=NO_BROWSER)]
_FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
    *("--window-size=1200,800", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
]
_WAIT = 60.0  # seconds, for a machine under load


class Chromium:
    """One browser; `opened` gives a page in it."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer, self._rest, self._last = reader, writer, b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        os.write(self._writer, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]  # type: ignore[no-any-return]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reader], [], [], _WAIT)
            assert ready, "Chromium does not answer"
            part = os.read(self._reader, 1 << 16)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]

    def opened(self, place: Path | str) -> "Page":
        """A tab with a file, or with an address."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        self.events.clear()
        page.call("Page.navigate", url=place if isinstance(place, str) else place.as_uri())
        page.until("document.readyState === 'complete'")
        return page


class Page:
    """One tab, and what a person does in it."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def show(self, width: int, scheme: str = "light") -> None:
        """As in a window, or on a phone with a touch screen, and in the light or the dark scheme."""
        phone = width < 800
        size = {"width": width, "height": 844, "screenWidth": width, "screenHeight": 844}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def overflow(self) -> int:
        """By how many pixels the page can be scrolled sideways."""
        # a phone's innerWidth grows with the content; the width of the emulated screen does not
        width: int = self.value("document.documentElement.scrollWidth - Math.min(innerWidth, screen.width)")
        return max(0, width)

    def faint(self) -> list[list[Any]]:
        """Texts whose contrast is below that of WCAG 2 AA (4.5, large ones 3): [text, ratio]."""
        texts: list[list[Any]] = self.value((Path(__file__).parent / "faint.js").read_text(encoding="utf-8"))
        return texts

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + _WAIT
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, code: int, text: str = "") -> None:
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def happened(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the page's events of one kind since it was opened."""
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in mine if event["method"] == method]


@contextmanager
def running() -> Iterator[Chromium]:
    """A browser that can reach no other machine, ended and cleared away afterwards."""
    assert PROGRAM is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        script = f'exec "$0" "$@" 3</dev/fd/{to_browser[0]} 4>/dev/fd/{from_browser[1]}'
        process = subprocess.Popen(
            ["sh", "-c", script, PROGRAM, *_FLAGS, f"--user-data-dir={home}"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": home},
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield (browser := Chromium(from_browser[0], to_browser[1]))
            browser.call("Browser.close")
        finally:
            os.close(to_browser[1])
            os.close(from_browser[0])
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
