"""A real Chromium, driven over its debugging pipe: no driver, no port, nothing to install but the browser."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import selectors
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PROGRAM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """`with Browser(directory) as page`: one tab. What its console says is in `console`, what it asks for in `urls`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session = ""
        self.console: list[str] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        assert PROGRAM is not None, "there is no Chromium on PATH"
        # It reads commands from its descriptor 3 and writes to 4.
        read, self._to = os.pipe()
        self._from, write = os.pipe()
        log = (self._directory / "chromium.log").open("wb")
        command = [
            PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions",
            f"--user-data-dir={self._directory}/profile", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        with log:
            # Out of the way first: one of them may be 3 or 4.
            spare = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 64) for number in (read, write)]

            def place() -> None:
                os.dup2(spare[0], 3)
                os.dup2(spare[1], 4)

            self.process = subprocess.Popen(
                command, close_fds=False, preexec_fn=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        for number in spare:
            os.close(number)
        os.close(read)
        os.close(write)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._from, selectors.EVENT_READ)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._selector.close()
        os.close(self._to)
        os.close(self._from)

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            left = end - time.monotonic()
            assert left > 0, "the browser does not answer"
            if self._selector.select(left):
                data = os.read(self._from, 1 << 16)
                assert data, "the browser has ended"
                self._unread += data
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(str(message["params"]["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(message["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(message["params"]["entry"]["text"])
            case "Network.requestWillBeSent":
                self.urls.append(message["params"]["request"]["url"])
        return message

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol; its result."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + 60
        while (message := self._message(end)).get("id") != number:
            pass
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def until(self, script: str, seconds: float = 30.0) -> Any:
        """Wait until the expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}\n{self.console}"
            time.sleep(0.05)
        return value

    def key(self, name: str, code: int, text: str = "") -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **said)

    def look(self, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """The size of the window, and what the user likes."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
