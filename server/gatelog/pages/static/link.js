// Takes the token of a link from the fragment into the form that it is for, and out of the address:
// it stays in no history. Without this module the form has a field for it.

const KEPT = "gatelog-link";

function found() {
  const [purpose, token] = location.hash.slice(1).split("=");
  if (token) {
    history.replaceState(null, "", location.pathname + location.search);
    return { purpose, token };
  }
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? "null"); // the form came back with a fault
  } catch {
    return null;
  }
}

const forms = [...document.querySelectorAll("form[data-link]")];
const link = found();
if (forms.length === 0) {
  sessionStorage.removeItem(KEPT);
} else if (link) {
  sessionStorage.setItem(KEPT, JSON.stringify(link));
  for (const form of forms) {
    const fits = form.dataset.link.split(" ").includes(link.purpose);
    form.hidden = !fits;
    if (!fits) continue;
    const input = form.querySelector("input[name$=token]");
    input.value = link.token;
    input.closest(".field").hidden = !input.hasAttribute("aria-invalid");
  }
}
