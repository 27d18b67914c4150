"""Local time by a POSIX time zone rule, like CET-1CEST,M3.5.0,M10.5.0/3 (POSIX.1, TZ; RFC 8536).

Times are seconds since 1970 in UTC, on every chip; days count from 1970-01-01.
"""


def days(y, m, d):
    """Return the number of the day of a date of the Gregorian calendar."""
    if m < 3:
        y -= 1
        m += 12
    return 365 * y + y // 4 - y // 100 + y // 400 + (153 * m - 457) // 5 + d - 719469


def date(n):
    """Return (year, month, day) of the day with number `n`."""
    era, n = divmod(n + 719468, 146097)
    y = (n - n // 1460 + n // 36524 - n // 146096) // 365
    n -= 365 * y + y // 4 - y // 100
    m = (5 * n + 2) // 153
    d = n - (153 * m + 2) // 5 + 1
    m += 3 if m < 10 else -9
    return 400 * era + y + (m < 3), m, d


def _seconds(text):
    """Return [+-]h[:m[:s]] as seconds."""
    total = 0
    unit = 3600
    for part in text.lstrip("+-").split(":"):
        total += int(part) * unit
        unit //= 60
    return -total if text[:1] == "-" else total


def _ahead(text):
    """Take a name and a time off `text`; return (seconds ahead of UTC or None, the rest)."""
    if text[:1] == "<":
        i = text.index(">") + 1
    else:
        i = 0
        while i < len(text) and text[i].isalpha():
            i += 1
    if i < 3:
        raise ValueError("time zone")
    j = i
    while j < len(text) and text[j] in "+-:0123456789":
        j += 1
    return -_seconds(text[i:j]) if j > i else None, text[j:]


def _day(rule, y):
    """Return the number of the day that `rule` means in the year `y`."""
    if rule[0] == "M":
        m, week, weekday = [int(n) for n in rule[1:].split(".")]
        n = days(y, m, 1)
        n += (weekday - n - 4) % 7 + 7 * week - 7
        # Week 5 is the last one.
        return n - 7 if week == 5 and n >= days(y, m + 1, 1) else n
    if rule[0] == "J":  # 1 to 365, February 29 is never counted
        n = int(rule[1:])
        return days(y, 1, 1) + n - 1 if n < 60 else days(y, 3, 1) + n - 60
    return days(y, 1, 1) + int(rule)


class Zone:
    """The time zone of a rule. Raises ValueError for malformed text."""

    def __init__(self, rule):
        first, *changes = rule.split(",")
        standard, rest = _ahead(first)
        if standard is None:
            raise ValueError("time zone")
        self._standard = self._summer = standard  # seconds ahead of UTC
        self._changes = []
        self._year = None
        if rest:
            summer, rest = _ahead(rest)
            self._summer = standard + 3600 if summer is None else summer
            for change in changes:
                day, time = (change + "/2").split("/")[:2]
                _day(day, 2000)
                self._changes.append((day, _seconds(time)))
        if rest or len(self._changes) != (2 if self._summer != standard or changes else 0):
            raise ValueError("time zone")

    def offset(self, t):
        """Return the seconds that local time is ahead of UTC at `t`."""
        if not self._changes:
            return self._standard
        y = date((t + self._standard) // 86400)[0]
        if y != self._year:
            self._year = y
            (start, time), (end, other) = self._changes
            self._start = _day(start, y) * 86400 + time - self._standard
            self._end = _day(end, y) * 86400 + other - self._summer
        start, end = self._start, self._end
        summer = start <= t < end if start < end else not end <= t < start
        return self._summer if summer else self._standard

    def local(self, t):
        """Return (year, month, day, hour, minute, second, weekday from Monday as 0) at `t`."""
        n, s = divmod(t + self.offset(t), 86400)
        return date(n) + (s // 3600, s // 60 % 60, s % 60, (n + 3) % 7)

    def moment(self, n, s):
        """Return when it is `s` seconds after midnight by the clock, on the day with number `n`.

        Of a time that comes twice the first; one that is skipped comes as much later.
        """
        t = n * 86400 + s
        early = t - max(self._standard, self._summer)
        late = t - min(self._standard, self._summer)
        return early if self.offset(early) == t - early else late
