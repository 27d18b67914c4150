"""Reason codes: why something was refused, or why a board went back to its other slot.

The same codes are used by signer, server and chip. A code never changes its meaning; the
sentences are for people and may.
"""

SENTENCES = {
    # A manifest, a file or a trust file is refused.
    "unsigned": "it carries no signature",
    "key": "no signature by a key this fleet trusts (or the signature is wrong)",
    "revoked": "it is signed by a key that was revoked",
    "threshold": "too few different keys have signed it",
    "syntax": "it breaks the format's rules",
    "size": "it is larger than allowed or announced",
    "hash": "the content does not match its SHA-256",
    "truncated": "it is shorter than announced",
    "app": "it was made for another app",
    "fleet": "it belongs to another fleet",
    "class": "it was made for another class of board",
    "mpy": "its bytecode does not fit the board's MicroPython",
    "arch": "its native code is for another processor",
    "seq": "it is older than what the board has confirmed",
    "same-seq": "the board has confirmed another release with this seq",
    "floor": "its floor is above its seq",
    "floor-low": "it is below the line under which the board takes no release",
    "name": "it lists a name that is not allowed",
    "rejected": "the board has tried and rejected this release",
    "space": "the board has no room for it",
    "extra": "there is a file that the manifest does not list",
    "trust-version": "it is not the trust version that comes next",
    "trust-sig": "the old and the new root keys have not both signed it",
    "network": "the network failed",
    "http": "the server's answer broke the protocol",
    "mac": "the answer does not prove that it comes from the board's server",
    "busy": "the app asked to wait",
    "memory": "the board's memory was too full",
    "moved": "it asks another server first",
    # A trial failed, or a confirmed release was left.
    "exception": "the app raised an exception",
    "watchdog": "the app hung or reset the board",
    "veto": "the app refused the release itself",
    "verify": "the release on the board no longer verifies",
    "timeout": "the app did not prove healthy in time",
    "power": "power failed in every try",
    "sleep": "the app slept before it was confirmed",
    "crashes": "the app crashed five times in a row",
    "order": "the rollback was ordered",
    # The confirmed app goes on, but not all of it works.
    "job": "a job of the app never succeeds",
    # The server noticed it.
    "twin": "its time since the start fell without a start: two boards may have one identity",
}


class Refused(Exception):
    """Something breaks a rule.

    Args:
        code: a key of ``SENTENCES``.
        detail: what exactly, for people.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        sentence = SENTENCES.get(self.code, self.code)
        return f"{sentence}: {self.detail}" if self.detail else sentence
