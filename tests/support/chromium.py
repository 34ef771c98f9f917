"""A real Chromium without a window, driven by its DevTools protocol: a test types, clicks and looks as people do."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

SECONDS = 30.0


class Page:
    """One tab."""

    def __init__(self, line: ClientConnection) -> None:
        self._line = line
        self._number = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and wait for its answer."""
        self._number += 1
        self._line.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._line.recv(timeout=SECONDS))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, script: str) -> Any:
        """Return what an expression of JavaScript gives."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true; a page that is being left counts as not yet."""
        until = time.monotonic() + SECONDS
        while True:
            try:
                if self.run(f"document.readyState === 'complete' && Boolean({condition})"):
                    return
            except AssertionError:
                pass
            assert time.monotonic() < until, f"{condition} stayed false at {self.run('location.href')}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)
        self.wait_for("location.href !== 'about:blank'")

    def type_into(self, name: str, text: str) -> None:
        """Type a text into the field of a name."""
        self.run(f"document.querySelector('input[name={name}]:not([type=hidden])').focus()")
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click the first element of a selector."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def size(self, width: int, height: int) -> None:
        """Make the window so large, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, file: Path) -> None:
        """Write what is seen as a PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def is_too_wide(self) -> bool:
        """Return whether the page has to be scrolled sideways."""
        return bool(self.run("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@contextmanager
def chromium() -> Iterator[Page]:
    """Start Chromium with an empty profile, and end it."""
    program = shutil.which("chromium") or "chromium"
    folder = Path(tempfile.mkdtemp(prefix="chromium"))
    process = subprocess.Popen(
        [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--ignore-certificate-errors", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + SECONDS
        while not (folder / "DevToolsActivePort").exists():
            assert time.monotonic() < until, "Chromium did not start"
            time.sleep(0.05)
        port = (folder / "DevToolsActivePort").read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
            target = next(one for one in json.load(answer) if one["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None) as line:
            yield Page(line)
    finally:
        process.terminate()
        process.wait(SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
