// Recomputes what the log claims of one event, with the browser's own cryptography and the public key
// of the log: RFC 9162 (tree, inclusion, consistency), C2SP signed-note, tlog-checkpoint, tlog-proof.
// It believes nothing that the service says: not the leaf, not the root, not the position. What is
// not in its one spelling is refused.

const HASH_BYTES = 32;
const MAX_HASHES = 64;
const MAX_SIZE = 2n ** 63n - 1n;
const TILE_WIDTH = 256n;
const PROOF_HEADER = "c2sp.org/tlog-proof@v1";
const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** It does not hold, and why; `code` says it to programs. */
export class NotVerified extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const malformed = (what) => new NotVerified("malformed", what);

// --- bytes

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const same = (one, other) => one.length === other.length && one.every((byte, n) => byte === other[n]);

export const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

export function bytesOf(text, what) {
  let raw;
  try {
    raw = atob(text);
  } catch {
    throw malformed(`${what} is not base64.`);
  }
  if (btoa(raw) !== text) throw malformed(`${what} is not written as it must be.`);
  return Uint8Array.from(raw, (char) => char.charCodeAt(0));
}

function numberOf(text, what) {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(text) || BigInt(text) > MAX_SIZE) {
    throw malformed(`${what} is no number.`);
  }
  return BigInt(text);
}

function hashOf(text, what) {
  const value = bytesOf(text, what);
  if (value.length !== HASH_BYTES) throw malformed(`${what} is no hash.`);
  return value;
}

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));
}

/** SHA-256(0x00 ‖ entry). */
export const leafHash = (entry) => sha256(Uint8Array.of(0), entry);

const nodeHash = (left, right) => sha256(Uint8Array.of(1), left, right);

// --- keys and notes

/** The public key in `name+id+base64`. */
export async function parseKey(text) {
  const found = /^([^\s+]+)\+([0-9a-f]{8})\+(\S+)$/.exec(text.trim());
  if (!found) throw malformed("This is no public key of a log: it has the form name+id+key.");
  const [, name, id, encoded] = found;
  const key = bytesOf(encoded, "The public key");
  if (key.length !== 1 + HASH_BYTES || key[0] !== 1) throw malformed("This is no Ed25519 key.");
  const digest = await sha256(utf8.encode(`${name}\n`), key);
  if (hex(digest.slice(0, 4)) !== id) {
    throw malformed("The public key is not whole: its id is not that of its name and key.");
  }
  const spki = await crypto.subtle.importKey("raw", key.slice(1), "Ed25519", false, ["verify"]);
  return { name, id, key: spki };
}

/** The checkpoint in this note, if the key has signed it: `{origin, size, root, note}`. */
export async function openCheckpoint(note, key) {
  const text = textOf(note, "The checkpoint");
  const end = text.lastIndexOf("\n\n");
  if (end < 0 || !text.endsWith("\n")) throw malformed("The checkpoint has no signature.");
  const body = text.slice(0, end + 1);
  const signers = [];
  let signed = false;
  for (const line of text.slice(end + 2, -1).split("\n")) {
    const [, name, encoded] = /^— (\S+) (\S+)$/.exec(line) ?? [];
    if (!name) throw malformed("A signature of the checkpoint is not written as it must be.");
    const data = bytesOf(encoded, "A signature");
    const id = hex(data.slice(0, 4));
    signers.push(`${name}+${id}`);
    if (name !== key.name || id !== key.id) continue;
    if (!(await crypto.subtle.verify("Ed25519", key.key, data.slice(4), utf8.encode(body)))) {
      throw new NotVerified("signature", `The signature of ${name} on the checkpoint does not hold.`);
    }
    signed = true;
  }
  if (!signed) {
    const others = signers.join(", ");
    throw new NotVerified("key", `The checkpoint is not signed by this key, but by ${others}.`);
  }
  return { ...parseCheckpoint(body, key), note: text };
}

function parseCheckpoint(body, key) {
  const lines = body.slice(0, -1).split("\n");
  if (lines.length < 3 || lines.includes("")) throw malformed("The checkpoint lacks a line.");
  const [origin, size, root] = lines;
  if (origin !== key.name) {
    throw new NotVerified("origin", `The checkpoint is of another log, ${origin}.`);
  }
  return { origin, size: numberOf(size, "The size"), root: hashOf(root, "The root") };
}

function textOf(bytes, what) {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    throw malformed(`${what} is no text.`);
  }
}

// --- proofs

function takenApart(bytes) {
  const text = textOf(bytes, "The proof");
  const end = text.indexOf("\n\n");
  if (end < 0) throw malformed("The proof has no checkpoint.");
  return { lines: text.slice(0, end).split("\n"), note: utf8.encode(text.slice(end + 2)) };
}

function labelled(label, lines) {
  const line = lines.shift() ?? "";
  if (!line.startsWith(`${label} `)) throw malformed(`The proof has no line '${label}'.`);
  return numberOf(line.slice(label.length + 1), `The ${label}`);
}

function hashesOf(lines) {
  if (lines.length > MAX_HASHES) throw malformed("The proof has too many hashes.");
  return lines.map((line) => hashOf(line, "A hash of the proof"));
}

function parseInclusion(bytes) {
  const { lines, note } = takenApart(bytes);
  if (lines.shift() !== PROOF_HEADER) throw malformed("This is no proof of an event.");
  let entry = null;
  if (lines[0]?.startsWith("extra ")) entry = bytesOf(lines.shift().slice(6), "The event in the proof");
  const index = labelled("index", lines);
  return { index, entry, hashes: hashesOf(lines), note };
}

function parseConsistency(bytes) {
  const { lines, note } = takenApart(bytes);
  const from = labelled("old", lines);
  return { from, hashes: hashesOf(lines), note };
}

/** The root to which a leaf leads (RFC 9162, 2.1.3.2). */
export async function rootFrom(leaf, index, size, hashes) {
  if (index < 0n || index >= size) throw malformed("The event lies beyond the signed tree.");
  let [fn, sn, root] = [index, size - 1n, leaf];
  for (const hash of hashes) {
    if (sn === 0n) throw malformed("The proof is too long.");
    if (fn & 1n || fn === sn) {
      root = await nodeHash(hash, root);
      while (!(fn & 1n) && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    } else {
      root = await nodeHash(root, hash);
    }
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  if (sn !== 0n) throw malformed("The proof is too short.");
  return root;
}

/** Throws unless the newer tree extends the older one (RFC 9162, 2.1.4.2). */
export async function checkExtension(older, newer, hashes) {
  const changed = new NotVerified("rewritten", `What the log held at ${older.size} events is not in it any more.`);
  if (older.size === newer.size) {
    if (hashes.length || !same(older.root, newer.root)) throw changed;
    return;
  }
  if (older.size < 1n || older.size > newer.size || !hashes.length) throw malformed("The proof is empty.");
  const path = older.size & (older.size - 1n) ? [...hashes] : [older.root, ...hashes];
  let [fn, sn] = [older.size - 1n, newer.size - 1n];
  while (fn & 1n) [fn, sn] = [fn >> 1n, sn >> 1n];
  let [was, is] = [path[0], path[0]];
  for (const hash of path.slice(1)) {
    if (sn === 0n) throw malformed("The proof is too long.");
    if (fn & 1n || fn === sn) {
      [was, is] = [await nodeHash(hash, was), await nodeHash(hash, is)];
      while (!(fn & 1n) && fn !== 0n) [fn, sn] = [fn >> 1n, sn >> 1n];
    } else {
      is = await nodeHash(is, hash);
    }
    [fn, sn] = [fn >> 1n, sn >> 1n];
  }
  if (sn !== 0n) throw malformed("The proof is too short.");
  if (!same(was, older.root) || !same(is, newer.root)) throw changed;
}

// --- one event of the log

/**
 * Verify the event that is shown. `ask(path)` fetches below `/v1/log/`: bytes, or null where the
 * service has nothing to show. `kept`: a checkpoint of before, a note, or nothing.
 *
 * Returns what holds: `{key, leaf, checkpoint, kept}`. Throws NotVerified.
 */
export async function verifyEvent({ position, entry, keyText, kept, ask }) {
  const key = await parseKey(keyText);
  const before = kept ? await openCheckpoint(utf8.encode(kept), key) : null;
  const leaf = await leafHash(entry);
  const proof = await ask(`proof?position=${position}`);
  if (proof === null) return unproved({ position, leaf, key, before, ask });
  const { index, entry: proved, hashes, note } = parseInclusion(proof);
  const checkpoint = await openCheckpoint(note, key);
  if (before) await seeExtended(before, checkpoint, key, ask);
  if (index !== BigInt(position) - 1n) {
    throw new NotVerified("position", `The proof is of position ${index + 1n}.`);
  }
  if (proved && !same(proved, entry)) {
    throw new NotVerified("entry", "The event that is shown is not the one in the proof.");
  }
  if (!same(await rootFrom(leaf, index, checkpoint.size, hashes), checkpoint.root)) {
    throw new NotVerified("entry", "The event that is shown is not the one that was sealed at this position.");
  }
  return { key, leaf, checkpoint, kept: before };
}

/** Throws unless the log of this checkpoint has all that the older one had. */
async function seeExtended(before, checkpoint, key, ask) {
  if (checkpoint.size < before.size) {
    throw new NotVerified(
      "cut",
      `The log was cut: it had ${before.size} events in the checkpoint that you kept, and has ${checkpoint.size} now.`,
    );
  }
  if (checkpoint.size === before.size) return checkExtension(before, checkpoint, []);
  const answer = await ask(`proof?from=${before.size}`);
  if (answer === null) {
    throw new NotVerified("rewritten", "The service cannot prove that the log was only added to.");
  }
  const { from, hashes, note } = parseConsistency(answer);
  if (from !== before.size) throw malformed("The proof begins elsewhere.");
  const newest = await openCheckpoint(note, key);
  await checkExtension(before, newest, hashes);
  if (newest.size !== checkpoint.size) return seeExtended(checkpoint, newest, key, ask);
  await checkExtension(checkpoint, newest, []);
}

/** The service proves nothing of the event: find out why. Always throws. */
async function unproved({ position, leaf, key, before, ask }) {
  const note = await ask("checkpoint");
  if (note === null) throw new NotVerified("unsealed", "Nothing of this log is sealed yet.");
  const checkpoint = await openCheckpoint(note, key);
  if (before) await seeExtended(before, checkpoint, key, ask);
  const index = BigInt(position) - 1n;
  if (index >= checkpoint.size) {
    throw new NotVerified("unsealed", `The newest checkpoint reaches to ${checkpoint.size} only: try again in a second.`);
  }
  const tile = await ask(tilePath(index / TILE_WIDTH, checkpoint.size));
  const at = Number(index % TILE_WIDTH) * HASH_BYTES;
  const sealed = tile?.slice(at, at + HASH_BYTES);
  if (sealed?.length === HASH_BYTES && !same(sealed, leaf)) {
    throw new NotVerified(
      "entry",
      `The event that is shown is not the one that was sealed at this position: that one's leaf is ${hex(sealed)}.`,
    );
  }
  throw new NotVerified("proof", "The service has no proof of this event that leads to what was signed.");
}

/** Where the leaves of this tile of the lowest level are, in a tree of this size (tlog-tiles). */
export function tilePath(tile, size) {
  const groups = String(tile).padStart(Math.ceil(String(tile).length / 3) * 3, "0").match(/.{3}/g);
  const last = groups.pop();
  const width = size - tile * TILE_WIDTH < TILE_WIDTH ? size - tile * TILE_WIDTH : TILE_WIDTH;
  const part = width < TILE_WIDTH ? `.p/${width}` : "";
  return `tile/0/${groups.map((group) => `x${group}/`).join("")}${last}${part}`;
}
