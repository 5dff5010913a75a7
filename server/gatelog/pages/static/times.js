// Shows each <time data-show> in the reader's zone; UTC comes as its title. What stands in the page
// without this module is UTC. Both have the same form and room, so that nothing moves.

const two = (number) => String(number).padStart(2, "0");

function zoneOf(date) {
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(date);
  return parts.find((part) => part.type === "timeZoneName").value;
}

function shown(date, detail) {
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  let time = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (detail !== "minutes") time += `:${two(date.getSeconds())}`;
  if (detail === "milliseconds") time += `.${String(date.getMilliseconds()).padStart(3, "0")}`;
  return `${day} ${time}`;
}

/** Show the times in this part of the page, and itself, in the reader's zone. */
export function showTimes(part) {
  const found = [...part.querySelectorAll("time[data-show]")];
  if (part instanceof HTMLTimeElement && part.dataset.show) found.push(part);
  for (const element of found) {
    const date = new Date(element.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    element.title = `${element.dateTime.replace("T", " ").replace("Z", "")} UTC`;
    element.textContent = shown(date, element.dataset.show);
  }
}

/** A new <time> element for this moment (ISO 8601, in UTC), in the reader's zone. */
export function timeElement(moment, detail = "minutes") {
  const element = document.createElement("time");
  element.dateTime = moment;
  element.dataset.show = detail;
  showTimes(element);
  return element;
}

showTimes(document);
for (const element of document.querySelectorAll("[data-zone]")) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone === "UTC") continue;
  element.parentElement.textContent = `Times are of ${zone} (${zoneOf(new Date())}); point at one for UTC.`;
}
for (const element of document.querySelectorAll("[data-focus]")) element.focus();
