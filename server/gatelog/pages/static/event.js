// The page of an event: verifies in the browser what the log claims of it (`verify.js`). The key is
// what its reader hands in; this browser keeps it, and the newest checkpoint that held, until they
// sign out. Whoever wants to find a log that was cut later keeps a checkpoint elsewhere.

import { make } from "./dom.js";
import { bytesOf, hex, NotVerified, verifyEvent } from "./verify.js";

const KEPT = "gatelog-log";

const form = document.querySelector("form[data-verify]");
const { key, kept } = form.elements;
const result = document.getElementById("verified");
const button = form.querySelector("button");

/** What the service answers below /v1/log/; null where it has nothing to show. */
async function ask(path) {
  const answer = await fetch(`/v1/log/${path}`, { cache: "no-store" });
  if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
  if (answer.status === 401 || answer.status === 403 || answer.status === 503) {
    throw new Error(`The service answered ${answer.status}: nothing is verified.`);
  }
  return null;
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  } catch {
    return {};
  }
}

function say(kind, title, ...rest) {
  result.className = `note ${kind}`;
  result.dataset.result = kind;
  result.replaceChildren(make("h3", {}, title), ...rest);
  result.hidden = false;
}

function facts(pairs) {
  const list = make("dl", { class: "facts" });
  for (const [name, value] of pairs) list.append(make("dt", {}, name), make("dd", { class: "code" }, value));
  return list;
}

async function verify() {
  const { position, entry } = form.dataset;
  const found = await verifyEvent({
    position,
    entry: bytesOf(entry, "The event"),
    keyText: key.value,
    kept: kept.value.trim() ? `${kept.value.replaceAll("\r\n", "\n").trimEnd()}\n` : "",
    ask,
  });
  const { checkpoint } = found;
  const since = found.kept
    ? `The log of the checkpoint that you kept (${found.kept.size} events) was only added to.`
    : "You gave no checkpoint of before: that the log was not cut since, is not shown.";
  say(
    "good",
    "Verified",
    make("p", {}, "This very event stands at this position in the log that this key has signed. ", since),
    facts([
      ["Leaf, recomputed", hex(found.leaf)],
      ["Root, recomputed", hex(checkpoint.root)],
      ["Events in the signed log", String(checkpoint.size)],
      ["Signed by", `${found.key.name}+${found.key.id}`],
    ]),
  );
  kept.value = checkpoint.note;
  localStorage.setItem(KEPT, JSON.stringify({ key: key.value.trim(), kept: checkpoint.note }));
}

async function run(event) {
  event.preventDefault();
  button.disabled = true;
  delete result.dataset.result;
  delete result.dataset.code;
  try {
    if (!crypto.subtle) throw new Error("This browser has no cryptography here: pages must come by https.");
    await verify();
  } catch (error) {
    if (error instanceof NotVerified && error.code !== "unsealed") {
      result.dataset.code = error.code;
      say("bad", "Not verified", make("p", {}, error.message));
    } else {
      say("warn", "Nothing is verified", make("p", {}, error.message));
    }
  }
  button.disabled = false;
}

const known = recall();
key.value ||= known.key ?? "";
kept.value ||= known.kept ?? "";
form.addEventListener("submit", run);
form.hidden = false;
