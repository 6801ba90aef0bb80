"""A headless Chromium for tests that look at a page; nothing is downloaded, and where none is installed they skip."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

# Selenium would look for a browser and a driver on the network, and count its uses; both are named to it here.
os.environ["SE_OFFLINE"] = "true"
os.environ["SE_AVOID_STATS"] = "true"
_INSTALL = "install it with `apt-get install chromium chromium-driver`"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--window-size=1280,1500",
)


@contextlib.contextmanager
def browser(profile):
    """A browser with an empty profile; closed at the end of the block."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    from selenium.webdriver.chrome.service import Service

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip(f"there is no {'chromedriver' if binary else 'chromium'} to look at the report with; {_INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Page(chrome)
    finally:
        chrome.quit()


class Page:
    """What tests ask of a page."""

    def __init__(self, chrome):
        self.chrome = chrome

    def open(self, path, *, script=True, scheme="light"):
        """Load a file; logs of before are dropped."""
        self.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        colors = [{"name": "prefers-color-scheme", "value": scheme}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": colors})
        self.logs()
        self.chrome.get(path.as_uri())

    def logs(self):
        """(lines of the console, addresses that were asked for) since the last call."""
        console = [row["message"] for row in self.chrome.get_log("browser")]
        events = [json.loads(row["message"])["message"] for row in self.chrome.get_log("performance")]
        asked = [row["params"]["request"]["url"] for row in events if row["method"] == "Network.requestWillBeSent"]
        return console, asked

    def find(self, name):
        """An element by its id."""
        return self.chrome.find_element("id", name)

    def text(self, name):
        """Its text, as it is seen."""
        return self.find(name).text

    def value(self, script):
        """Of an expression in JavaScript."""
        return self.chrome.execute_script(f"return {script};")

    def picture(self, name):
        """[h, w, 3]: an element as it is seen."""
        return np.asarray(Image.open(io.BytesIO(self.find(name).screenshot_as_png)).convert("RGB"))

    def press(self, *keys):
        """Keys, wherever the focus is."""
        self.actions().send_keys(*keys).perform()

    def point(self, name, x, y):
        """The pointer, to a place of an element given as shares of its sides."""
        element = self.find(name)
        size = element.size
        offset = round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])
        self.actions().move_to_element_with_offset(element, *offset).perform()

    def actions(self):
        """Of pointer and keyboard, without the pauses that a person makes."""
        from selenium.webdriver.common.action_chains import ActionChains

        return ActionChains(self.chrome, duration=0)
