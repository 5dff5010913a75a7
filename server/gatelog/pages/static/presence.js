// Says so within a second when the session of this page has ended, wherever it was ended. While
// nobody looks at the page it holds no connection: a browser has six to a host.

import { make } from "./dom.js";

const STREAM = "/account/presence";
const SOON_MS = 1000;
const LATEST_MS = 60_000;

let stream = null;
let pause = SOON_MS;
let timer = 0;
let over = false;

function watch() {
  clearTimeout(timer);
  if (over || stream || document.visibilityState !== "visible") return;
  stream = new EventSource(STREAM);
  stream.addEventListener("open", () => {
    pause = SOON_MS;
    document.body.dataset.presence = "watched";
  });
  stream.addEventListener("look", look);
  stream.addEventListener("error", look);
}

function leave() {
  clearTimeout(timer);
  stream?.close();
  stream = null;
  delete document.body.dataset.presence;
}

/** The stream is over, or never began: ask why. Only a clear no ends the page. */
async function look() {
  leave();
  try {
    const answer = await fetch("/v1/me", { cache: "no-store" });
    if (answer.status === 401) return end("Your session has ended.");
    if (answer.ok) {
      const me = await answer.json();
      if (me.user_id !== document.body.dataset.user) {
        return end("Somebody else is signed in in this browser now.");
      }
    }
  } catch {
    // nobody answers: the page stays as it is
  }
  timer = setTimeout(watch, pause);
  pause = Math.min(pause * 2, LATEST_MS);
}

function end(why) {
  over = true;
  leave();
  const back = encodeURIComponent(location.pathname + location.search);
  const link = make("a", { class: "button", href: `/login?return_to=${back}` }, "Sign in");
  const dialog = make(
    "dialog",
    { id: "session-over", "aria-labelledby": "session-over-title" },
    make("h2", { id: "session-over-title" }, why),
    make("p", {}, "What you see here may be out of date. What you wrote is still in the page behind this."),
    make("p", { class: "row" }, link),
  );
  const close = make("button", { class: "quiet", type: "button" }, "Look at the page");
  close.addEventListener("click", () => dialog.close());
  dialog.lastElementChild.append(close);
  document.body.append(dialog);
  dialog.showModal();
  dispatchEvent(new CustomEvent("gatelog:session-over"));
}

document.addEventListener("visibilitychange", () => (document.visibilityState === "visible" ? watch() : leave()));
addEventListener("pagehide", leave);
addEventListener("pageshow", watch);
watch();
