// The slider of the as-of page: the answer follows it, and the address is always that of the answer,
// so that nothing is lost by a reload. Without this module the slider is a field of its form.

import { adopt, fetchPage } from "./parts.js";

const SOON_MS = 150;
const PARTS = ["moment", "answer"];

const form = document.getElementById("by-position");
const slider = form.elements.slider;
const number = form.elements.position;
let timer = 0;
let latest = 0;

async function answer() {
  const turn = ++latest;
  const question = new URLSearchParams(new FormData(form));
  if (!question.get("user")) question.delete("user");
  const address = `${location.pathname}?${question}`;
  const said = document.getElementById("moving");
  try {
    const page = await fetchPage(address);
    if (turn !== latest) return; // the slider has moved on
    for (const id of PARTS) document.getElementById(id).replaceWith(adopt(page.getElementById(id)));
    history.replaceState(null, "", address);
    said.textContent = "";
  } catch (error) {
    if (turn === latest) said.textContent = error.message;
  }
}

slider.addEventListener("input", () => {
  number.value = slider.value;
  clearTimeout(timer);
  timer = setTimeout(answer, SOON_MS);
});
number.addEventListener("input", () => {
  if (number.validity.valid && number.value) slider.value = number.value;
});
slider.disabled = false;
slider.closest(".reserved").classList.remove("reserved");
