// What is typed and pasted, at the pace of the board: its buffer for that has 256 bytes, and what
// does not fit is lost.

const PIECE = 32;
const ROOM = 128;
const SILENCE_MS = 10000;
const PROMPT_MS = 1000;
const INTERRUPT = "\x03", ENTER_RAW = "\x01", LEAVE_RAW = "\x02", END = "\x04", PASTE = "\x05A\x01";
const RAW = "raw REPL; CTRL-B to exit\r\n>";
const PROMPT = ">>> ";
const ANY_PROMPT = /(>>>|\.\.\.|===) $/;

const encoder = new TextEncoder();

/** Bytes as text of one character each, in which marks are found whatever the bytes are. */
const latin = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const unlatin = (text) => Uint8Array.from(text, (one) => one.charCodeAt(0));

/** Code without the indentation that all of its lines share, as it has inside a function. */
export function dedent(code) {
  const lines = code.split("\n");
  const shared = lines
    .filter((line) => line.trim())
    .map((line) => line.match(/^[ \t]*/)[0])
    .reduce((one, other) => {
      let same = 0;
      while (same < one.length && one[same] === other[same]) same++;
      return one.slice(0, same);
    });
  return lines.map((line) => (line.startsWith(shared) ? line.slice(shared.length) : line)).join("\n");
}

/** The keys of one connection.
 *
 * `send(bytes)` goes to the board, `show(bytes)` to the screen, `note(text)` to the person.
 */
export class Keyboard {
  #send;
  #show;
  #note;
  #queue = new Uint8Array(0);
  #draining = false;
  #unheard = 0; // bytes sent that no echo has answered
  #tail = "";
  #inbox = null; // what the board says in raw mode, which is not for people
  #running = false; // what was pasted runs
  #stopped = false;
  #waiting = new Set();

  constructor(send, show, note) {
    this.#send = send;
    this.#show = show;
    this.#note = note;
  }

  /** What the board says. */
  hear(bytes) {
    this.#unheard = Math.max(0, this.#unheard - bytes.length);
    if (this.#inbox === null) {
      this.#show(bytes);
      this.#tail = (this.#tail + latin(bytes)).slice(-8);
    } else {
      this.#inbox += latin(bytes);
    }
    for (const wake of this.#waiting) wake(true);
  }

  /** Keys, in order. Those that follow each other faster than the board takes them wait. */
  type(text) {
    if (text.includes(INTERRUPT)) {
      this.interrupt();
      return;
    }
    if (this.#inbox !== null && !this.#running) return; // while a paste travels
    const bytes = encoder.encode(text);
    const queue = new Uint8Array(this.#queue.length + bytes.length);
    queue.set(this.#queue);
    queue.set(bytes, this.#queue.length);
    this.#queue = queue;
    if (!this.#draining) this.#drain();
  }

  /** Stop what runs; nothing waits in front of that. */
  interrupt() {
    this.#queue = new Uint8Array(0);
    this.#stopped = true; // a paste that still travels ends with it
    if (this.#inbox === null || this.#running) this.#say(INTERRUPT);
    for (const wake of this.#waiting) wake(true);
  }

  /** A text from the clipboard. Lines at the prompt run as one piece of code. */
  async paste(text) {
    const clean = text.replace(/\r\n?/g, "\n");
    const lines = clean.replace(/^\n+|\n+$/g, "").includes("\n");
    if (!lines || !this.#tail.endsWith(PROMPT) || this.#inbox !== null || this.#draining) {
      // A single line may be edited; what a program reads is not ours to understand.
      this.type(clean.replaceAll("\n", "\r"));
      return;
    }
    try {
      await this.#pasted(encoder.encode(dedent(clean)));
    } catch (error) {
      if (!(error instanceof Silence)) throw error;
      this.#note("The board stopped answering in the middle of the paste. Ctrl-C, and again.");
    } finally {
      this.#inbox = null;
      this.#running = false;
    }
  }

  // --- typing: never more than ROOM bytes on their way

  async #drain() {
    this.#draining = true;
    this.#unheard = 0;
    while (this.#queue.length) {
      const enter = this.#queue.subarray(0, PIECE).indexOf(13) + 1;
      const piece = this.#queue.slice(0, enter || PIECE);
      if (this.#unheard + piece.length > ROOM && !(await this.#more(SILENCE_MS))) {
        this.#note(`The board takes no keys now: ${this.#queue.length} bytes were not sent.`);
        this.#queue = new Uint8Array(0);
      } else if (this.#unheard + piece.length <= ROOM) {
        this.#queue = this.#queue.slice(piece.length);
        this.#unheard += piece.length;
        if (enter) this.#tail = "";
        this.#send(piece);
        if (enter && this.#queue.length) await this.#prompted();
      }
    }
    this.#draining = false;
  }

  /** After a line, what it prints is no echo of the next one. */
  async #prompted() {
    while (!ANY_PROMPT.test(this.#tail) && (await this.#more(PROMPT_MS)));
  }

  /** Wait for the board to say something; false when it does not. For 0 ms: for ever. */
  async #more(ms) {
    let wake;
    let late;
    const heard = new Promise((done) => {
      wake = done;
      if (ms) late = setTimeout(() => done(false), ms);
    });
    this.#waiting.add(wake);
    try {
      return await heard;
    } finally {
      clearTimeout(late);
      this.#waiting.delete(wake);
    }
  }

  // --- pasting: raw-paste mode, in which the board says how much it takes
  // (docs.micropython.org, "The MicroPython Interactive Interpreter Mode (aka REPL)")

  async #pasted(code) {
    this.#inbox = "";
    this.#stopped = false;
    this.#note(`${code.length} bytes pasted`);
    this.#say(ENTER_RAW);
    await this.#until(RAW);
    this.#say(PASTE);
    await this.#until("R\x01");
    await this.#travel(code);
    await this.#print();
    const trace = await this.#until(END, 0);
    this.#running = false;
    await this.#until(">");
    this.#say(LEAVE_RAW);
    await this.#until(PROMPT);
    this.#show(unlatin(trace + PROMPT));
    this.#tail = PROMPT;
  }

  async #travel(code) {
    const window = await this.#take(2);
    const step = window.charCodeAt(0) + 256 * window.charCodeAt(1);
    let room = step;
    let wanted = true;
    for (let at = 0; at < code.length && wanted && !this.#stopped; ) {
      if (!room || this.#inbox) {
        // Anything but "go on": what it has does not compile.
        wanted = (await this.#take(1)) === "\x01";
        room += step;
      } else {
        this.#send(code.slice(at, at + room));
        at += room;
        room = 0;
      }
    }
    const stopped = this.#stopped;
    this.#say(stopped ? INTERRUPT : END);
    if (wanted) await this.#until(END); // the board's word that it has all of it
    this.#running = true;
    if (this.#stopped && !stopped) this.#say(INTERRUPT);
  }

  /** Show what is printed as it comes, until the code has ended. */
  async #print() {
    for (;;) {
      const end = this.#inbox.indexOf(END);
      const said = end < 0 ? this.#inbox : this.#inbox.slice(0, end);
      this.#inbox = this.#inbox.slice(end < 0 ? this.#inbox.length : end + 1);
      if (said) this.#show(unlatin(said));
      if (end >= 0) return;
      await this.#more(0);
    }
  }

  #say(text) {
    this.#send(encoder.encode(text));
  }

  async #until(mark, ms = SILENCE_MS) {
    while (!this.#inbox.includes(mark)) await this.#heard(ms);
    const [before] = this.#inbox.split(mark, 1);
    this.#inbox = this.#inbox.slice(before.length + mark.length);
    return before;
  }

  async #take(count) {
    while (this.#inbox.length < count) await this.#heard(SILENCE_MS);
    const taken = this.#inbox.slice(0, count);
    this.#inbox = this.#inbox.slice(count);
    return taken;
  }

  async #heard(ms) {
    if (!(await this.#more(ms))) throw new Silence();
  }
}

class Silence extends Error {}
