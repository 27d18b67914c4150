"""Numbers as people read them; each is a filter of the templates."""


def many(number: int, one: str) -> str:
    """How many of what: `1 board`, `12 boards`."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def size(number: float) -> str:
    """Bytes as people say them: `512 bytes`, `18.4 KB`."""
    return many(int(number), "byte") if number < 1024 else f"{number / 1024:.1f} KB"


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `10 min`, `2 h`, `3 d`."""
    for unit, name, most in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < unit * most:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86400)} d"


FILTERS = {"many": many, "size": size, "duration": duration}
