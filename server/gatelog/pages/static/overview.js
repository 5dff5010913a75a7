// Keeps the overview as things stand, by the API's stream. A page that nobody sees holds none.

import { make } from "./dom.js";
import { timeElement } from "./times.js";

const STREAM = "/v1/overview/stream";
const HEIGHT = 100;
const MINUTE_MS = 60_000;

const part = (id) => document.getElementById(id);
const where = JSON.parse(part("attention").dataset.where); // where one goes, by code
const told = (count) => (count === null || count === undefined ? "–" : count.toLocaleString("en"));

let stream = null;
let over = false;
let attention = null; // what is shown, to leave it alone while it is the same
let minute = null;

function say(text) {
  if (part("live").textContent !== text) part("live").textContent = text;
}

function show(now) {
  part("at").replaceChildren(timeElement(now.at, "seconds"));
  showAttention(now.attention);
  part("sessions").textContent = told(now.sessions);
  part("head").textContent = told(now.head.position);
  part("signed").textContent = told(now.checkpoint?.size);
  showTime("recorded", ", the last ", now.head.recorded_at);
  showTime("signed-at", ", ", now.checkpoint?.signed_at);
  for (const name of ["logins", "failures", "ends"]) showChart(name, now.rates[name]);
  if (now.rates.minute !== minute || part("numbers").closest("details").open) showNumbers(now.rates);
  part("hosts").replaceChildren(...rowsOf(now.hosts));
  say("It is kept up to date.");
}

function showTime(id, before, moment) {
  part(id).replaceChildren(...(moment ? [before, timeElement(moment, "seconds")] : []));
}

function showAttention(found) {
  const text = JSON.stringify(found);
  if (text === attention) return;
  attention = text;
  const items = found.map((each) => {
    const item = make("li", { class: `note ${each.level}` });
    item.append(make("strong", {}, each.level === "bad" ? "Wrong:" : "Look:"), ` ${each.text}`);
    if (where[each.code]) item.append(" ", make("a", { href: where[each.code] }, "Show"));
    return item;
  });
  part("attention").replaceChildren(...(items.length ? items : [make("li", { class: "note good" }, "Nothing.")]));
}

function showChart(name, counts) {
  const figure = document.querySelector(`[data-chart=${name}]`);
  const drawing = figure.querySelector("svg");
  const highest = Math.max(0, ...counts.map((count) => count ?? 0));
  const bars = drawing.querySelectorAll("rect");
  counts.forEach((count, n) => {
    const height = ((count ?? 0) * HEIGHT) / Math.max(highest, 1);
    bars[n].setAttribute("height", height.toFixed(2));
    bars[n].setAttribute("y", (HEIGHT - height).toFixed(2));
  });
  const says = `${told(counts.at(-2))} in the last full minute, ${told(highest)} at most in the last hour`;
  figure.querySelector("[data-now]").textContent = told(counts.at(-1));
  figure.querySelector("[data-says]").textContent = `${says}.`;
  drawing.setAttribute("aria-label", `${drawing.dataset.title}: ${says}`);
}

function showNumbers(rates) {
  minute = rates.minute;
  const last = new Date(rates.minute).getTime();
  const rows = rates.logins.map((_, n) => {
    const back = rates.logins.length - 1 - n;
    const begun = new Date(last - back * MINUTE_MS).toISOString();
    const cells = [rates.logins[n], rates.failures[n], rates.ends[n]];
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, timeElement(begun)),
      ...cells.map((count) => make("td", { class: "number" }, told(count))),
    );
  });
  part("numbers").replaceChildren(...rows.reverse());
}

function rowsOf(hosts) {
  if (!hosts.length) return [make("tr", {}, make("td", { colspan: 6 }, "No host has a copy of the sessions in memory."))];
  return hosts.map((host) => {
    const cell = (label, text) => make("td", { "data-label": label }, text);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, host.host),
      cell("Sessions are checked", host.mode === "memory" ? "in memory" : "by the database"),
      cell("Lease renewed", `${host.renewed_s_ago.toFixed(1)} s ago, lasts ${host.lease_s} s`),
      cell("Applied up to", told(host.applied)),
      cell("Behind", `${told(host.lag)} events`),
      cell("Sessions", told(host.sessions)),
    );
  });
}

function watch() {
  if (over || stream || document.visibilityState !== "visible") return;
  stream = new EventSource(STREAM);
  stream.addEventListener("overview", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("unknown", (event) => say(`Nothing newer is known: ${JSON.parse(event.data).title}.`));
  stream.addEventListener("error", () => {
    say("Not up to date: the service does not answer.");
    if (stream?.readyState === EventSource.CLOSED) {
      leave();
      setTimeout(watch, 5000);
    }
  });
}

function leave() {
  stream?.close();
  stream = null;
}

document.addEventListener("visibilitychange", () => (document.visibilityState === "visible" ? watch() : leave()));
addEventListener("gatelog:session-over", () => {
  over = true;
  leave();
  say("Not up to date: the session has ended.");
});
addEventListener("pagehide", leave);
addEventListener("pageshow", watch);
watch();
