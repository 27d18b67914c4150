"""The portal's page: page.html, of which lines are left out and places filled in."""

_LOCK = b"<svg role=img aria-label=locked><use href=#k></use></svg>"
_NAMES = ((b"&", b"&amp;"), (b"<", b"&lt;"), (b">", b"&gt;"), (b'"', b"&quot;"), (b"'", b"&#39;"))


def escaped(raw):
    """Return bytes from anywhere as HTML text: no markup, no control characters, whole UTF-8."""
    most = 256
    try:
        raw.decode()
    except UnicodeError:
        most = 127
    raw = bytes(c if 31 < c < most and c != 127 else 63 for c in raw)
    for c, name in _NAMES:
        raw = raw.replace(c, name)
    return raw


def render(shown, values, names, found):
    """Yield the page's parts.

    `shown` names the sections of page.html that belong to it, `values` what stands in its
    $places$ (bytes, escaped here), `names` the networks in the list, `found` what is known of each:
    (dBm, locked).
    """
    f = open("/bootloader/page.html", "rb")
    try:
        show = True
        for line in f:
            if line[:4] == b"<!--":
                show = line[4:-4] in shown
            elif line == b"$networks$\n" and show:
                for i, ssid in enumerate(names):
                    yield _row(i, ssid, values[b"ssid"], *found[ssid])
            elif show:
                parts = line.split(b"$")
                for i in range(1, len(parts), 2):
                    parts[i] = escaped(values[parts[i]])
                yield b"".join(parts)
    finally:
        f.close()


def _row(i, ssid, chosen, level, locked):
    return (
        b"<label><input type=radio name=s value=%d%s> <bdi>%s</bdi>"
        b"%s<i role=img aria-label='%d dBm' style=--l:%d%%></i></label>\n"
        % (
            i,
            b" checked" if ssid == chosen else b"",
            escaped(ssid),
            _LOCK if locked else b"",
            level,
            max(10, min(100, 2 * (level + 95))),
        )
    )
