"""The page for the first flash, in a real browser, as far as that goes without a board."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from mipy_ota.ota_server.web import flash_page
from mipy_ota.tools.console import Failure
from mipy_ota.tools.flash import firmware, plan, port
from mipy_ota.tools.fleet import enrol, serve
from mipy_ota.tools.keys import changes
from tests.support import browser, fleet, stock
from tests.support.browser import complaints, opened

MB = 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serve.Running]:
    # On all addresses: one that is not loopback is what a browser takes for another computer.
    with serve.running(tmp_path_factory.mktemp("server"), host="0.0.0.0") as running:
        yield running


@pytest.fixture(scope="module")
def driver() -> Iterator:
    with browser.started() as one:
        yield one


def port_of(server: serve.Running) -> int:
    return int(server.url.rpartition(":")[2])


def text(driver, element: str) -> str:
    return driver.find_element("id", element).text


# --- what is served ------------------------------------------------------------------------------


def test_page_needs_no_login_and_allows_no_other_host(server: serve.Running) -> None:
    answer = requests.get(f"http://127.0.0.1:{port_of(server)}/flash", timeout=10)
    policy = answer.headers["content-security-policy"]
    assert answer.ok
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for path in flash_page.FILES:
        if "static" not in flash_page.FILES[path][0]:
            said = requests.get(f"http://127.0.0.1:{port_of(server)}{path}", timeout=10).text
            assert "https://" not in said.replace("the https address", "")


@pytest.mark.parametrize(
    "path",
    ["/flash/", "/flash/base.html", "/flash/../app.py", "/flash/%2e%2e/token", "/static/.ready"],
)
def test_nothing_else_is_served(server: serve.Running, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port_of(server))) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert raw.recv(64).split()[1] in (b"404", b"307", b"400")


@browser.needed
def test_licences_come_along(server: serve.Running) -> None:
    said = requests.get(f"http://127.0.0.1:{port_of(server)}/flash/licenses.txt", timeout=10).text
    for words in ("=== esptool-js", "Apache License", "=== pako", "=== js-md5", "=== atob-lite"):
        assert words in said


def test_server_without_the_flasher_says_404(
    server: serve.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(flash_page.FILES, "/flash/esptool.js", ("static/none.js", "text/plain"))
    answer = requests.get(f"http://127.0.0.1:{port_of(server)}/flash/esptool.js", timeout=10)
    assert answer.status_code == 404


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_flash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., bytes]]:
    """Images as `mipy flash --image` makes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIPY_HOME", str(tmp_path_factory.mktemp("home")))
        changes.make_fleet()

        def made(kind: str, megabytes: int = 4) -> bytes:
            variant = "FLASH_1M" if megabytes == 1 else ""
            esp8266 = kind == "esp8266"
            raw = stock.esp8266(variant) if esp8266 else stock.path(kind).read_bytes()
            cls = f"{kind}-generic"
            board = enrol.make("b1", "demo", cls)
            release = fleet.release({"main.py": "pass"}, 1, cls=cls)
            return plan.make(board, firmware.parse(raw), megabytes * MB, release).whole

        yield made


def chosen(driver, tmp_path: Path, content: bytes) -> str:
    """What the page says about an image."""
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path / "board.bin"
    path.write_bytes(content)
    driver.execute_script("document.getElementById('image-says').textContent = ''")
    driver.find_element("id", "image").send_keys(str(path))
    WebDriverWait(driver, 20).until(lambda one: text(one, "image-says"))
    return text(driver, "image-says")


@browser.needed
def test_page_loads_without_a_complaint(driver, server: serve.Running) -> None:
    opened(driver, f"http://localhost:{port_of(server)}/flash")
    assert driver.execute_script("return document.documentElement.dataset.ready") == "true"
    assert not driver.find_element("id", "trouble").is_displayed()
    assert driver.execute_script("return typeof window.md5 + md5(new Uint8Array([97]))") == (
        "function0cc175b9c0f1b6a831c399e269772661"
    )
    assert complaints(driver) == []
    _keep_picture(driver, "ready")


@browser.needed
@pytest.mark.parametrize(
    ("chip", "megabytes"),
    [("ESP8266", 1), ("ESP8266", 4), ("ESP32", 4), ("ESP32-C3", 8), ("ESP32-S3", 8)],
)
def test_image_is_understood(
    driver,
    server: serve.Running,
    tmp_path: Path,
    whole_flash: Callable[..., bytes],
    chip: str,
    megabytes: int,
) -> None:
    opened(driver, f"http://localhost:{port_of(server)}/flash")
    kind = chip.lower().replace("-", "")
    said = chosen(driver, tmp_path, whole_flash(kind, megabytes))
    assert said == f"For an {chip} with {megabytes} MB of flash."
    assert driver.find_element("id", "write").is_enabled()


@browser.needed
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _: b"not an image", "has 12 bytes"),
        (lambda whole: whole[: 2 * MB + 4096], "has 2101248 bytes"),
        (lambda whole: b"\xff" * len(whole), "no firmware"),
        (lambda whole: whole.replace(b"littlefs", b"bigfiles"), "no file system"),
    ],
)
def test_other_files_are_refused_with_what_to_do(
    driver,
    server: serve.Running,
    tmp_path: Path,
    whole_flash: Callable[..., bytes],
    spoil: Callable[[bytes], bytes],
    words: str,
) -> None:
    opened(driver, f"http://localhost:{port_of(server)}/flash")
    said = chosen(driver, tmp_path, spoil(whole_flash("esp32")))
    assert words in said and "mipy flash" in said
    assert not driver.find_element("id", "write").is_enabled()


@browser.needed
def test_plain_http_from_elsewhere_says_so_and_what_to_do(driver, server: serve.Running) -> None:
    opened(driver, f"http://elsewhere.test:{port_of(server)}/flash")
    said = text(driver, "trouble")
    assert "plain http from elsewhere.test" in said
    assert f"http://localhost:{port_of(server)}/flash" in said and "mipy serve --tls" in said
    assert complaints(driver) == []
    _keep_picture(driver, "elsewhere")


@browser.needed
def test_tls_from_elsewhere_works(driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIPY_HOME", str(tmp_path))
    url = serve.flash_page("127.0.0.1", 0)
    opened(driver, url.replace("127.0.0.1", "elsewhere.test"))
    assert driver.execute_script("return document.documentElement.dataset.ready") == "true"
    assert not driver.find_element("id", "trouble").is_displayed()


@browser.needed
def test_browser_without_serial_ports_says_so(driver, server: serve.Running) -> None:
    hide = "delete Navigator.prototype.serial"
    made = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hide})
    try:
        opened(driver, f"http://localhost:{port_of(server)}/flash")
        assert "cannot use serial ports" in text(driver, "trouble")
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", made)


@browser.needed
@pytest.mark.parametrize(
    ("raised", "words"),
    [("NotFoundError", "No port was chosen"), ("NetworkError", "in use, or the board has gone")],
)
def test_port_that_cannot_be_had(
    driver,
    server: serve.Running,
    tmp_path: Path,
    whole_flash: Callable[..., bytes],
    raised: str,
    words: str,
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    opened(driver, f"http://localhost:{port_of(server)}/flash")
    chosen(driver, tmp_path, whole_flash("esp32"))
    driver.execute_script(
        f"navigator.serial.requestPort = async () => {{ throw new DOMException('', '{raised}') }}"
    )
    driver.find_element("id", "write").click()
    WebDriverWait(driver, 20).until(lambda one: text(one, "trouble"))
    assert words in text(driver, "trouble")
    assert driver.find_element("id", "write").is_enabled()


@browser.needed
@pytest.mark.parametrize(
    "line",
    [
        "ota: a 5 main",
        "ota: a 3630241 /prepare",
        "ota: None 0 /recovery",
        "r$l#|$`bnn`rlota: a 3630241 main",
        "The filesystem appears to be corrupted. If you had",
        "FAT filesystem looks corrupt",
        "invalid header: 0xffffffff",
        "waiting for download",
        ">>> ",
        "the app prints >>> and ota: nothing",
        "rst cause:2, boot mode:(3,6)",
    ],
)
def test_page_and_tool_understand_the_console_alike(
    driver, server: serve.Running, line: str
) -> None:
    opened(driver, f"http://localhost:{port_of(server)}/flash")
    said = driver.execute_async_script(
        "const [heard, done] = arguments;"
        "import('/flash/console.js').then((page) => done(page.told(heard)))",
        f"ets Jan  8 2013,rst cause:2\r\n{line}\r\n",
    )
    try:
        assert said == {"started": port.started(line), "trouble": None}
    except Failure as failure:
        assert not said["started"]
        assert said["trouble"][0].lower().startswith(failure.text[:20].lower())


STAND_IN = """
const [printed, done] = arguments;
import('/flash/esptool.js').then(({ ESPLoader, Transport }) => {
  const nothing = async () => {};
  Object.assign(ESPLoader.prototype, {
    async main() { this.chip = { CHIP_NAME: "ESP32" }; },
    readFlashId: async () => 22 << 16, writeFlash: nothing, after: nothing,
  });
  Transport.prototype.disconnect = nothing;
  const readable = new ReadableStream({
    start(line) { for (const part of printed) line.enqueue(new TextEncoder().encode(part)); },
  });
  const port = { open: nothing, close: nothing, getInfo: () => ({}), readable };
  navigator.serial.requestPort = async () => port;
  done();
});
"""
"""A board that takes everything and then prints; no flash chip is written to."""


@browser.needed
@pytest.mark.parametrize(
    ("printed", "element", "words"),
    [
        (["rl\ufffdl#|ota: a 3", "630241 main\r\n"], "says", "The board runs its release"),
        (["MicroPython v1.27.0\r\n", ">>> "], "trouble", "stopped at its prompt"),
        (["The filesystem appears to be corr", "upted.\r\n"], "trouble", "does not mount"),
    ],
)
def test_page_follows_the_board_after_the_flash(
    driver,
    server: serve.Running,
    tmp_path: Path,
    whole_flash: Callable[..., bytes],
    printed: list[str],
    element: str,
    words: str,
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    opened(driver, f"http://localhost:{port_of(server)}/flash")
    chosen(driver, tmp_path, whole_flash("esp32"))
    driver.execute_async_script(STAND_IN, printed)
    driver.find_element("id", "write").click()
    WebDriverWait(driver, 20).until(lambda one: words in text(one, element))


def _keep_picture(driver, name: str) -> None:
    folder = os.environ.get("MIPY_PICTURES")
    if folder:
        driver.save_screenshot(str(Path(folder, f"flash-{name}.png")))
