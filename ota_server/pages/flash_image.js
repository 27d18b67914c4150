// What an image of a whole flash is: understood from its bytes, never from its name.

const MB = 1024 * 1024;
const SIZES = [1, 2, 4, 8, 16];
const BLOCK = 4096;
const MAGIC = 0xe9;
const SUPERBLOCK = new TextEncoder().encode("littlefs");
const HOW = "Make one with: mipy flash --firmware FILE --image board.bin";

// Chip ids in the extended header of images (esp_image_header_t).
const ESP32S = {
  0: "ESP32", 2: "ESP32-S2", 5: "ESP32-C3", 9: "ESP32-S3", 12: "ESP32-C2",
  13: "ESP32-C6", 16: "ESP32-H2", 18: "ESP32-P4", 23: "ESP32-C5",
};
const STARTS = [0, 0x1000, 0x2000];

/**
 * Check a whole-flash image.
 * @param {Uint8Array} bytes its content.
 * @returns {{chip: string, megabytes: number}} what it is for.
 * @throws {Error} it is none; the message says why and what to do.
 */
export function understand(bytes) {
  const megabytes = bytes.length / MB;
  if (!SIZES.includes(megabytes)) {
    throw new Error(
      `This file has ${bytes.length} bytes; an image of a whole flash has 1, 2, 4, 8 or 16 MB. ${HOW}`,
    );
  }
  const chip = chipOf(bytes);
  if (!chip) throw new Error(`There is no firmware at the start of this file. ${HOW}`);
  if (!holdsFiles(bytes)) {
    throw new Error(`There is firmware in this file, but no file system with a boot stage. ${HOW}`);
  }
  return { chip, megabytes };
}

function chipOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const start = STARTS.find((at) => bytes[at] === MAGIC);
  if (start === undefined) return null;
  // An ESP8266 has no extended header: its first segment, for RAM at 0x4010xxxx, follows at once.
  if (start === 0 && view.getUint32(8, true) >>> 20 === 0x401) return "ESP8266";
  return ESP32S[view.getUint16(start + 12, true)] ?? null;
}

function holdsFiles(bytes) {
  for (let at = 0; at < bytes.length; at += BLOCK) {
    if (SUPERBLOCK.every((byte, i) => bytes[at + 8 + i] === byte)) return true;
  }
  return false;
}
