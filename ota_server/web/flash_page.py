"""The page for the first flash: a browser writes an image to a board over USB (Web Serial).

It needs no login, since it shows nothing of the fleet: the image, which holds the board's key, is
a file of the visitor's and stays in his browser. Nothing here reaches any other host.
"""

from starlette.routing import Route

from . import assets

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "serial=(self)",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
FILES = {
    "/flash": ("pages/flash.html", "text/html"),
    "/flash/page.js": ("pages/flash.js", "text/javascript"),
    "/flash/console.js": ("pages/flash_console.js", "text/javascript"),
    "/flash/image.js": ("pages/flash_image.js", "text/javascript"),
    "/flash/esptool.js": ("static/esptool.js", "text/javascript"),
    "/flash/md5.js": ("static/md5.js", "text/javascript"),
    "/flash/licenses.txt": ("static/licenses.txt", "text/plain"),
}


def routes() -> list[Route]:
    """The page and what it loads; nothing else of the folders is served."""
    return assets.routes(FILES, _HEADERS)
