"""Every name is this board: how phones find the page (RFC 1035)."""

from micropython import const

_MOST = const(300)


def answer(query, address):
    """Return the answer to the bytes `query`, or None when it is no single question.

    `address` is four bytes. Types other than A have no answer, so that a phone goes on with A.
    """
    if not 17 <= len(query) <= _MOST or query[2] & 0xF8 or query[4:6] != b"\0\1":
        return None
    i = 12
    while query[i]:
        if query[i] > 63:
            return None
        i += query[i] + 1
        if i > len(query) - 5:
            return None
    question = query[12 : i + 5]
    found = question[-4:] in (b"\0\1\0\1", b"\0\xff\0\1")
    head = query[:2] + b"\x84\0\0\1\0" + bytes((found, 0, 0, 0, 0))
    if found:
        # The name is the question's; a minute to live.
        question += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address
    return head + question
