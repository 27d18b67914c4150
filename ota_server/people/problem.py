"""Errors of the people's side, all of one form."""

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response


class Problem(Exception):
    """An answer in place of a result.

    Args:
        status: of HTTP.
        code: a word for programs; a reason code where a release was refused.
        text: what happened, one sentence.
        hint: what to do next.
        close: end the connection, since the request was not read to its end.
    """

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        hint: str = "",
        close: bool = False,
        headers: Mapping[str, str] = {},
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.hint = hint
        self.headers = dict(headers) | ({"connection": "close"} if close else {})

    def answer(self) -> Response:
        """The answer."""
        return JSONResponse(self.as_json(), self.status, self.headers)

    def as_json(self) -> dict[str, str]:
        """The body of the answer."""
        return {"error": self.code, "text": self.text, "hint": self.hint}
