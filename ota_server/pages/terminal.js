// A board's terminal: the screen is xterm.js, the board is behind a WebSocket of this server.

import { Keyboard } from "/terminal/keyboard.js";

const RETRY_MS = 2000;
const RETRY_FOR_MS = 120000;
const PASSWORD_CHARS = 9;
// While a board starts again it answers in these ways, or nothing does.
const PASSING = ["closed", "unreachable", "no-webrepl", "taken", "busy", "gone", "server"];

const $ = (id) => document.getElementById(id);
const encoder = new TextEncoder();

let screen;
let socket = null;
let keyboard = null;
let password = ""; // until Enter: the board neither echoes it nor knows Backspace
let lost = 0; // when the connection was lost that is being made again
let end = null;
let timer;

/** The page's policy takes styles from scripts only with the word that it came with, or by CSSOM. */
function allowStyles() {
  const set = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else set.call(this, name, value);
  };
  const { nonce } = document.querySelector("script[nonce]");
  const create = document.createElement.bind(document);
  document.createElement = (name, options) => {
    const made = create(name, options);
    if (name === "style") made.nonce = nonce;
    return made;
  };
}

async function makeScreen() {
  allowStyles();
  const [{ Terminal }, { FitAddon }] = await Promise.all([
    import("/terminal/xterm.js"),
    import("/terminal/fit.js"),
  ]);
  screen = new Terminal({
    cursorBlink: true,
    fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
    fontSize: 15,
    scrollback: 10000,
    theme: { background: "#111111" },
  });
  const fit = new FitAddon();
  screen.loadAddon(fit);
  screen.open($("screen"));
  new ResizeObserver(() => fit.fit()).observe($("screen"));
  screen.onData(typed);
  screen.attachCustomKeyEventHandler(ours);
  // Before xterm.js, which knows nothing of the board's pace.
  $("screen").addEventListener("paste", pasted, { capture: true });
  screen.focus();
}

/** Keys that are the browser's: copy and paste. */
function ours(event) {
  const letter = event.ctrlKey && !event.altKey && !event.metaKey && event.key.toLowerCase();
  if (letter === "c" && event.shiftKey) {
    if (event.type === "keydown") document.execCommand("copy");
    event.preventDefault();
    return false;
  }
  return letter !== "v";
}

// --- to the board

const send = (bytes) => {
  if (socket?.readyState === WebSocket.OPEN) socket.send(bytes);
};

function typed(text) {
  if (keyboard) keyboard.type(text);
  else if (socket) login(text);
  else if (text === "\r") connect();
}

function pasted(event) {
  event.preventDefault();
  event.stopPropagation();
  const text = event.clipboardData.getData("text/plain");
  if (keyboard) keyboard.paste(text);
  else if (socket) login(text.trim());
}

function login(text) {
  for (const key of text) {
    if (key === "\r") {
      send(encoder.encode(password + "\r"));
      password = "";
    } else if (key === "\x7f") {
      if (password) screen.write("\b \b");
      password = password.slice(0, -1);
    } else if (key === "\x03") {
      leave();
    } else if (key >= " " && password.length < PASSWORD_CHARS) {
      password += key;
      screen.write("*");
    }
  }
}

// --- from the board

function connect() {
  clearTimeout(timer);
  end = null;
  const now = new WebSocket(location.href.replace(/^http/, "ws").replace(/[?#].*/, ""));
  now.binaryType = "arraybuffer";
  socket = now;
  now.onmessage = ({ data }) => {
    if (typeof data === "string") told(JSON.parse(data));
    else if (keyboard) keyboard.hear(new Uint8Array(data));
    else greet(new Uint8Array(data));
  };
  now.onclose = () => closed(now);
  if (!lost) state("connecting");
  $("connect").textContent = "Disconnect";
}

function greet(bytes) {
  if (new TextDecoder().decode(bytes).includes("Password: ")) {
    if (lost) note("Connected again. The password was not kept.");
    lost = 0;
    state("password?");
  }
  screen.write(bytes);
}

function told(message) {
  if (message.state === "open") {
    keyboard = new Keyboard(send, (bytes) => screen.write(bytes), note);
    state("connected");
    keyboard.type("\r"); // where a prompt waits, it comes once more
  } else {
    end = message;
  }
}

function closed(which) {
  if (which !== socket) return;
  const was = keyboard !== null;
  socket = keyboard = null;
  password = "";
  end ??= {
    code: "server",
    text: "The connection to the server is lost.",
    hint: "Load this page again if you have logged out meanwhile.",
  };
  if (was && ["gone", "server"].includes(end.code)) {
    lost = Date.now();
    note(`${end.text} Waiting for it.`);
  }
  if (lost && PASSING.includes(end.code) && Date.now() - lost < RETRY_FOR_MS) {
    state("waiting");
    timer = setTimeout(connect, RETRY_MS);
  } else {
    lost = 0;
    state("not connected");
    $("connect").textContent = "Connect";
    note(`${end.text} ${end.hint} Enter connects again.`);
  }
}

function leave() {
  clearTimeout(timer);
  lost = 0;
  const which = socket;
  end = { code: "left", text: "Disconnected.", hint: "" };
  closed(which);
  if (which) which.onmessage = null;
  which?.close();
}

function state(text) {
  $("state").textContent = text;
}

function note(text) {
  screen.write(`\r\n\x1b[33m${text.replace(/\s+/g, " ").trim()}\x1b[0m\r\n`);
}

// --- the page

$("interrupt").addEventListener("click", () => {
  keyboard?.interrupt();
  screen.focus();
});
$("connect").addEventListener("click", () => {
  if (socket || lost) leave();
  else connect();
  screen.focus();
});

try {
  await makeScreen();
  connect();
} catch {
  state("This server was installed without the terminal: install npm there, then run make setup.");
}
document.documentElement.dataset.ready = "true";
