"""The page for the first flash: a browser writes an image to a board over USB (Web Serial).

It needs no login, since it shows nothing of the fleet: the image, which holds the board's key, is
a file of the visitor's and stays in his browser. Nothing here reaches any other host.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

_HERE = Path(__file__).parent
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "serial=(self)",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
FILES = {
    "/flash": ("pages/flash.html", "text/html"),
    "/flash/page.css": ("pages/style.css", "text/css"),
    "/flash/page.js": ("pages/flash.js", "text/javascript"),
    "/flash/image.js": ("pages/flash_image.js", "text/javascript"),
    # From npm, copied by `make setup` with their licences.
    "/flash/esptool.js": ("static/esptool.js", "text/javascript"),
    "/flash/md5.js": ("static/md5.js", "text/javascript"),
    "/flash/licenses.txt": ("static/licenses.txt", "text/plain"),
}


def routes() -> list[Route]:
    """The page and what it loads; nothing else of the folders is served."""
    return [Route(path, _serve, methods=["GET"]) for path in FILES]


async def _serve(request: Request) -> Response:
    name, kind = FILES[request.url.path]
    path = _HERE / name
    if not path.is_file():
        return Response(status_code=404, headers=_HEADERS)
    return FileResponse(path, media_type=kind, headers=_HEADERS)
