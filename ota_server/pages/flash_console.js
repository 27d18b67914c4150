// What a board's console tells after a flash; the same words as in tools/flash/port.py.

// Not only at the start of a line: an ESP8266's ROM speaks at another speed, and leaves its noise.
const STARTED = /ota: \S+ \d+ [^/\s]\S*$/m;
const TROUBLE = [
  [
    /filesystem appears to be corrupted|looks corrupt/,
    "The firmware does not mount its file system.",
    "Make the image again with the stock firmware: leave --firmware out.",
  ],
  [
    /invalid header: 0x|csum err|flash read err|invalid segment length/,
    "The chip finds no firmware that it can start.",
    "Write it again; if that does not help, the flash chip is worn or the image is wrong.",
  ],
  [
    /waiting for download|DOWNLOAD\(|DOWNLOAD_BOOT/,
    "The board is still in download mode.",
    "Let go of its BOOT or FLASH button and press reset.",
  ],
  [/^>>> /m, "The board stopped at its prompt.", "See what it printed below."],
  [
    /ota: \S+ \d+ \/recovery$/m,
    "The board has nothing to start, and waits for a release.",
    "Publish one for its class: mipy release",
  ],
];

/**
 * What the lines of a console say.
 * @param {string} heard what was printed so far; its last line may be cut anywhere.
 * @returns {{started: boolean, trouble: string[] | null}} trouble is what it is and what to do.
 */
export function told(heard) {
  const text = heard.replaceAll("\r", "");
  for (const [pattern, what, hint] of TROUBLE) {
    if (pattern.test(text)) return { started: false, trouble: [what, hint] };
  }
  return { started: STARTED.test(text), trouble: null };
}
