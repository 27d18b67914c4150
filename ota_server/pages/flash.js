// The page for the first flash: what the browser lacks, which image, and writing it.

import { told } from "/flash/console.js";
import { understand } from "/flash/image.js";

const FAST = 460800;
const ROM = 115200;
const UP_MS = 90000;
const LINES = 4096;

const $ = (id) => document.getElementById(id);
let image = null;

function trouble(text, hints) {
  $("trouble-text").textContent = text;
  $("trouble-hints").replaceChildren(
    ...hints.map((hint) => Object.assign(document.createElement("li"), { textContent: hint })),
  );
  $("trouble").hidden = false;
}

function says(text) {
  $("says").textContent = text;
}

function log(text) {
  $("log").textContent += text;
}

/** Say what keeps this browser from reaching a serial port; true when nothing does. */
function able() {
  if (!window.isSecureContext) {
    trouble(
      `This page came over plain http from ${location.hostname}. ` +
        "Browsers let a page use a serial port only over https, or from this computer itself.",
      [
        "On the computer that runs the server, open http://localhost" +
          (location.port ? `:${location.port}` : "") + "/flash and plug the board in there.",
        "Or start the server with: mipy serve --tls, and open the https address it prints.",
        "Or flash without a browser: mipy flash",
      ],
    );
    return false;
  }
  if (!("serial" in navigator)) {
    trouble("This browser cannot use serial ports.", [
      "Open this page in Chrome, Edge or Opera on a desktop computer.",
      "Or flash without a browser: mipy flash",
    ]);
    return false;
  }
  return true;
}

async function flasher() {
  try {
    return await import("/flash/esptool.js");
  } catch {
    trouble("This server was installed without the flasher.", [
      "Where it is installed: install npm, then run make setup.",
      "Or flash without a browser: mipy flash",
    ]);
    return null;
  }
}

async function choose() {
  image = null;
  $("write").disabled = true;
  const file = $("image").files[0];
  if (!file) return;
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    image = { bytes, ...understand(bytes) };
    $("image-says").textContent = `For an ${image.chip} with ${image.megabytes} MB of flash.`;
    $("image-says").classList.remove("problem");
    $("write").disabled = !ready;
  } catch (error) {
    $("image-says").textContent = error.message;
    $("image-says").classList.add("problem");
  }
}

async function write() {
  $("write").disabled = true;
  $("trouble").hidden = true;
  let transport = null;
  try {
    const port = await navigator.serial.requestPort();
    transport = new esptool.Transport(port);
    await flash(transport);
    await transport.disconnect();
    transport = null;
    await follow(port);
  } catch (error) {
    says("");
    log(`${error.stack ?? error}\n`);
    trouble(...words(error));
  } finally {
    $("progress").hidden = true;
    $("write").disabled = false;
    if (transport) await transport.disconnect().catch((error) => log(`${error}\n`));
  }
}

async function flash(transport) {
  says("Asking the board what it is.");
  const loader = new esptool.ESPLoader({
    transport,
    baudrate: FAST,
    romBaudrate: ROM,
    terminal: { clean() {}, write: log, writeLine: (line) => log(`${line}\n`) },
  });
  await loader.main();
  const chip = loader.chip.CHIP_NAME;
  if (chip !== image.chip) {
    throw new Unfit(`The image is for an ${image.chip}, the board has an ${chip}.`);
  }
  const megabytes = 2 ** ((await loader.readFlashId()) >> 16 & 0xff) / 2 ** 20;
  if (megabytes !== image.megabytes) {
    throw new Unfit(
      `The image is for ${image.megabytes} MB of flash, the board has ${megabytes} MB.`,
    );
  }
  says("Erasing and writing. This takes a minute or two; leave the cable alone.");
  $("progress").hidden = false;
  await loader.writeFlash({
    fileArray: [{ data: image.bytes, address: 0 }],
    flashMode: "keep",
    flashFreq: "keep",
    flashSize: "keep",
    eraseAll: true,
    compress: true,
    calculateMD5Hash: (bytes) => window.md5(bytes),
    reportProgress: (_, written, total) => {
      $("progress").value = (100 * written) / total;
    },
  });
  says("Written and verified. Starting the board.");
  await loader.after("hard_reset");
}

/** Read the console until the boot stage says which release it starts. */
async function follow(port) {
  await port.open({ baudRate: ROM });
  const reader = port.readable.getReader();
  const late = setTimeout(() => reader.cancel(), UP_MS);
  const decoder = new TextDecoder();
  let heard = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) {
        says("Written and verified, but the board has not said that it runs. Press its reset button.");
        return;
      }
      const text = decoder.decode(value, { stream: true });
      log(text);
      heard = (heard + text).slice(-LINES);
      const { started, trouble: found } = told(heard);
      if (found) throw new Stopped(...found);
      if (started) {
        says("The board runs its release. From now on it takes updates over the air.");
        return;
      }
    }
  } finally {
    clearTimeout(late);
    reader.releaseLock();
    await port.close();
  }
}

class Unfit extends Error {}

class Stopped extends Error {
  constructor(text, hint) {
    super(text);
    this.hint = hint;
  }
}

function words(error) {
  if (error instanceof Unfit) return [error.message, ["Choose the image that was made for it."]];
  if (error instanceof Stopped) {
    return [`Written and verified, but: ${error.message}`, [error.hint]];
  }
  if (error.name === "NotFoundError") return ["No port was chosen.", ["Plug the board in first."]];
  if (error.name === "InvalidStateError" || error.name === "NetworkError") {
    return ["The port is in use, or the board has gone.", ["Close other programs that use it."]];
  }
  return [
    `Writing failed: ${error.message}`,
    ["Hold the board's BOOT (or FLASH) button, press reset, let go, and try again.",
     "Try another cable: some carry no data."],
  ];
}

const esptool = able() ? await flasher() : null;
const ready = esptool !== null;
if (ready) await import("/flash/md5.js");
$("image").addEventListener("change", choose);
$("write").addEventListener("click", write);
document.documentElement.dataset.ready = String(ready);
