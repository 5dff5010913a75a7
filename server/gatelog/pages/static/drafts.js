// Keeps what is written in a form[data-draft] until it has been sent for good: through a reload, and
// through a session that ended meanwhile. It stays in this tab, is for the same user alone, and has
// no password, no code and nothing hidden.

const KEY = "gatelog-draft:";
const { user, session } = document.body.dataset;

const keyOf = (form) => KEY + location.pathname + " " + form.getAttribute("action");
const fieldsOf = (form) =>
  [...form.elements].filter(
    (field) => field.name && !["hidden", "password", "submit", "button"].includes(field.type) && !field.hasAttribute("data-secret"),
  );

function read(form) {
  try {
    return JSON.parse(sessionStorage.getItem(keyOf(form)) ?? "null");
  } catch {
    return null;
  }
}

function keep(form, sent) {
  const values = fieldsOf(form).map((field) => [field.name, field.value, Boolean(field.checked)]);
  sessionStorage.setItem(keyOf(form), JSON.stringify({ user, session, sent, values }));
}

function restore(form, draft) {
  const left = [...draft.values];
  for (const field of fieldsOf(form)) {
    const at = left.findIndex(([name, value]) => name === field.name && (field.type !== "checkbox" || value === field.value));
    if (at < 0) continue;
    const [[, value, checked]] = left.splice(at, 1);
    if (field.type === "checkbox" || field.type === "radio") field.checked = checked;
    else field.value = value;
  }
  form.closest("details")?.setAttribute("open", "");
}

for (const form of user ? document.querySelectorAll("form[data-draft]") : []) {
  const draft = read(form);
  const cameBack = document.getElementById("wrong") !== null; // with its faults, and what was written
  if (draft && draft.user === user && !cameBack && (!draft.sent || draft.session !== session)) restore(form, draft);
  if (draft && (draft.user !== user || (draft.sent && draft.session === session))) sessionStorage.removeItem(keyOf(form));
  form.addEventListener("input", () => keep(form, false));
  form.addEventListener("submit", () => keep(form, true));
}

for (const form of document.querySelectorAll('form[action="/logout"]')) {
  form.addEventListener("submit", () => {
    for (const key of Object.keys(sessionStorage)) if (key.startsWith(KEY)) sessionStorage.removeItem(key);
  });
}
