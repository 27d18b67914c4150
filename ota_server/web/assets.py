"""What the pages load: single files of `pages/` and `static/`, and nothing else of the folders."""

from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).parent.parent
"""With `pages/` and `static/` in it."""
# A page's own policy is the page's; what it loads may do nothing when it is opened by itself.
_HEADERS = {
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def routes(
    files: Mapping[str, tuple[str, str]], headers: Mapping[str, str] = _HEADERS
) -> list[Route]:
    """Serve files, without a login.

    Args:
        files: path of the address -> (file in `FOLDER`, media type). Files in `static/` are
            from npm, copied by `make setup` with their licences: 404 where it has not run.
        headers: of every answer.
    """

    async def serve(request: Request) -> Response:
        name, kind = files[request.url.path]
        path = FOLDER / name
        if not path.is_file():
            return Response(status_code=404, headers=headers)
        return FileResponse(path, media_type=kind, headers=headers)

    return [Route(path, serve, methods=["GET"]) for path in files]
