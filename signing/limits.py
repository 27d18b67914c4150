"""Every limit of the signed formats (docs/protocol.md). The chip has the same ones."""

NUMBER = 2**31  # every number is below this: a small int on no chip, but four bytes on all
NAME_BYTES = 64
LINE_BYTES = 160  # with the line feed; `key`, `dev` and `sig` lines are as long as their key
KEY_LINE_BYTES = 600

MANIFEST_BYTES = 8192
NOTE_BYTES = 114  # in UTF-8, whose base64 fills a line
MANIFEST_SIGNATURES = 4
FILES = 64
FOLDER_ENTRIES = 32  # files and folders listed directly in one folder

TRUST_BYTES = 8192
TRUST_SIGNATURES = 8

BOARD_BYTES = 2048
BOARD_SERVERS = 3
WEBREPL_PASSWORD_BYTES = 9  # WebREPL cuts longer ones silently
PORTAL_PASSWORD_BYTES = range(8, 64)  # what WPA2 takes

KEY_BYTES = (256, 384)  # RSA-2048 is accepted, RSA-3072 is what we make
NEW_KEY_BITS = 3072

# A release as it travels between hosts. No board has room for this much.
BUNDLE_BYTES = 16 * 1024 * 1024
