"""A headless Chromium for tests of pages; tests skip where it is absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver with an empty profile; closes the browser behind the test."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        pytest.skip("no browser test: the package selenium is not installed")
    browser = CHROMIUM if CHROMIUM.exists() else Path(shutil.which("chromium") or "")
    driver_path = DRIVER if DRIVER.exists() else Path(shutil.which("chromedriver") or "")
    if not browser.is_file() or not driver_path.is_file():
        pytest.skip("no browser test: chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(browser)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(driver_path)))
    try:
        yield driver
    finally:
        driver.quit()


def open_at(driver: Any, address: str, width: int, height: int = 844, scripts: bool = True) -> None:
    """Opens a page in a window of exactly that width, which a window of a desktop browser cannot have."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(address)
