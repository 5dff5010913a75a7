// Follows the log on the page of the audit log: the stream tells that there is something new, and the
// rows of it are fetched as the page shows them. Whoever reads elsewhere on the page is not disturbed:
// rows come above, and it is said how many.

import { adopt, fetchPage } from "./parts.js";

const SOON_MS = 250;
const MOST_ROWS = 500;

const table = document.getElementById("events");
const controls = document.getElementById("tail");
const button = controls.querySelector("button");
const said = controls.querySelector("[role=status]");
let stream = null;
let timer = 0;
let fetching = false;
let seen = 0;

const top = () => Number(controls.dataset.after);

function follow() {
  const question = new URLSearchParams(controls.dataset.question);
  question.set("after", String(top()));
  stream = new EventSource(`/v1/audit/events/stream?${question}`);
  for (const type of controls.dataset.types.split(" ")) stream.addEventListener(type, arrived);
  stream.addEventListener("open", () => {
    controls.dataset.following = "yes";
    said.textContent = seen ? `${seen} new` : "Following: new events appear on top.";
  });
  stream.addEventListener("error", () => {
    if (stream?.readyState === EventSource.CLOSED) stop("The stream has ended. Follow again to go on.");
  });
  button.textContent = "Stop following";
}

function stop(why) {
  stream?.close();
  stream = null;
  clearTimeout(timer);
  timer = 0;
  delete controls.dataset.following;
  button.textContent = "Follow live";
  said.textContent = why;
}

function arrived() {
  if (!timer) timer = setTimeout(fetchRows, SOON_MS);
}

async function fetchRows() {
  timer = 0;
  if (fetching) return arrived();
  fetching = true;
  try {
    const question = new URLSearchParams(controls.dataset.question);
    question.set("after", String(top()));
    question.set("limit", "1000");
    const page = await fetchPage(`${location.pathname}?${question}`);
    const rows = [...page.querySelectorAll("#events > tbody > tr")];
    if (rows.length) {
      controls.dataset.after = page.getElementById("tail").dataset.after;
      table.tBodies[0].prepend(...rows.map(adopt));
      table.hidden = false;
      document.getElementById("no-events")?.remove();
      while (table.tBodies[0].rows.length > MOST_ROWS) table.tBodies[0].lastElementChild.remove();
      seen += rows.length;
      said.textContent = `${seen} new`;
    }
  } catch (error) {
    stop(error.message);
  }
  fetching = false;
}

button.addEventListener("click", () => (stream ? stop("") : follow()));
addEventListener("pagehide", () => stream && stop(""));
addEventListener("gatelog:session-over", () => stop(""));
controls.classList.remove("reserved");
