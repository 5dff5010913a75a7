// The API's document, to read and to try. What comes from the document or from an answer becomes
// text, never markup: nodes are made one by one, and nothing here parses HTML.

const SHOWN_CHARACTERS = 200_000; // of an answer
const UNSENT = new Set(["TRACE", "CONNECT"]); // browsers do not send these (Fetch, section 2.2.1)

const root = new URL(".", document.baseURI);
const one = (id) => document.getElementById(id);
const token = one("token");
let api;

// --- nodes

function node(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("aria-") || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A text in which `this` is code, and an empty line begins a paragraph.
function prose(text) {
  return (text ?? "").split("\n\n").filter(Boolean).map((part) =>
    node("p", {}, ...part.split("`").map((piece, at) => (at % 2 ? node("code", {}, piece) : piece))));
}

// --- schemas

function resolved(thing) {
  let found = thing;
  for (let hops = 0; found?.$ref?.startsWith("#/") && hops < 16; hops += 1) {
    found = found.$ref.slice(2).split("/").reduce((inside, name) => inside?.[name], api);
  }
  return found ?? {};
}

const bounds = (schema) => [
  schema.format,
  schema.pattern && `like ${schema.pattern}`,
  schema.minimum !== undefined && `from ${schema.minimum}`,
  schema.maximum !== undefined && `to ${schema.maximum}`,
  schema.minLength !== undefined && `at least ${schema.minLength} characters`,
  schema.maxLength !== undefined && `at most ${schema.maxLength} characters`,
].filter(Boolean).join(", ");

// A schema as an outline: fields a line each, what may be missing with a question mark.
function outline(schema, indent = "", seen = []) {
  const name = schema.$ref;
  if (name && seen.includes(name)) return name.split("/").at(-1);
  const known = name ? [...seen, name] : seen;
  const found = resolved(schema);
  const deeper = `${indent}  `;
  if (found.allOf) return found.allOf.map((each) => outline(each, indent, known)).join(" & ");
  const either = found.anyOf ?? found.oneOf;
  if (either && !found.type) return either.map((each) => outline(each, indent, known)).join(" | ");
  if (found.enum) return found.enum.map((each) => JSON.stringify(each)).join(" | ");
  if ("const" in found) return JSON.stringify(found.const);
  if (found.properties) {
    const lines = Object.entries(found.properties).map(([key, value]) =>
      `${deeper}${key}${found.required?.includes(key) ? "" : "?"}: ${outline(value, deeper, known)}`);
    return `{\n${lines.join("\n")}\n${indent}}`;
  }
  if (found.type === "array") {
    return `[${found.items ? outline(found.items, indent, known) : "…"}]`;
  }
  const limits = bounds(found);
  return `${found.type ?? "anything"}${limits ? ` (${limits})` : ""}`;
}

// A value to begin with: what must be there, with the example that the schema gives.
function sample(schema, depth = 0) {
  const found = resolved(schema);
  if (found.examples?.length) return found.examples[0];
  if (found.default !== undefined) return found.default;
  if (found.enum) return found.enum[0];
  if ("const" in found) return found.const;
  const part = (found.allOf ?? found.anyOf ?? found.oneOf)?.[0];
  if (part && depth < 8) return sample(part, depth + 1);
  if (found.type === "object") {
    const needed = Object.entries(found.properties ?? {}).filter(([key]) => found.required?.includes(key));
    return Object.fromEntries(needed.map(([key, value]) => [key, depth < 8 ? sample(value, depth + 1) : null]));
  }
  if (found.type === "array") return [];
  if (found.type === "integer" || found.type === "number") return found.minimum ?? 0;
  if (found.type === "boolean") return false;
  return "";
}

// --- what is asked for

function field(parameter) {
  const schema = resolved(parameter.schema ?? {});
  const choices = schema.enum ?? resolved(schema.items ?? {}).enum;
  const example = schema.examples?.[0];
  const shared = { name: parameter.name, required: parameter.required === true };
  if (choices) {
    const many = schema.type === "array";
    const empty = many || parameter.required ? [] : [node("option", { value: "" }, "")];
    return node("select", { ...shared, multiple: many },
      ...empty, ...choices.map((value) => node("option", {}, String(value))));
  }
  const control = node("input", { ...shared, autocomplete: "off", spellcheck: false });
  if (schema.type === "integer") control.inputMode = "numeric";
  if (parameter.required && example !== undefined) control.value = String(example);
  control.placeholder = schema.type === "array" ? "several, with commas" : bounds(schema);
  return control;
}

function values(parameter, control) {
  if (control.multiple) return [...control.selectedOptions].map((option) => option.value);
  if (control.value === "") return [];
  const list = resolved(parameter.schema ?? {}).type === "array";
  return list ? control.value.split(",").map((part) => part.trim()) : [control.value];
}

const bearer = () => new Headers(token.value ? { Authorization: `Bearer ${token.value}` } : {});

function request(entry, form) {
  let path = entry.path;
  const query = new URLSearchParams();
  const headers = new Headers();
  for (const [parameter, control] of form.controls) {
    for (const value of values(parameter, control)) {
      if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, () => encodeURIComponent(value));
      if (parameter.in === "query") query.append(parameter.name, value);
      if (parameter.in === "header") headers.append(parameter.name, value);
    }
  }
  if (form.body) headers.set("Content-Type", form.media);
  for (const [name, value] of bearer()) headers.set(name, value);
  const url = new URL(path.slice(1), root);
  url.search = query;
  return { url, options: { method: form.method(), headers, body: form.body?.value } };
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl({ url, options }) {
  const words = ["curl", "-i", ...(options.method === "HEAD" ? ["-I"] : ["-X", options.method])];
  for (const [name, value] of options.headers) {
    words.push("-H", name === "authorization" ? '"Authorization: Bearer $TOKEN"' : quoted(`${name}: ${value}`));
  }
  if (!options.headers.has("authorization")) words.push("-b", "cookies.txt");
  if (options.body) words.push("-d", quoted(options.body));
  return [...words, quoted(url.href)].join(" ");
}

// --- trying it

async function read(response, show, signal) {
  const type = response.headers.get("Content-Type") ?? "";
  if (!response.body) return show("");
  if (!/^text\/|json|xml|javascript/.test(type)) {
    return show(`${(await response.arrayBuffer()).byteLength} bytes`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!signal.aborted) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
    if (text.length > SHOWN_CHARACTERS) {
      await reader.cancel();
      return show(`${text.slice(0, SHOWN_CHARACTERS)}\n… there is more`);
    }
    show(text);
  }
  if (/[/+]json/.test(type)) {
    try { show(JSON.stringify(JSON.parse(text), null, 2)); } catch { /* it stays as it came */ }
  }
}

function trying(entry, form, output) {
  const stop = node("button", { type: "button", class: "quiet", hidden: true }, "Stop");
  const send = node("button", {}, "Send");
  let running;
  stop.addEventListener("click", () => running?.abort());
  const element = node("form", { class: "try", noValidate: false }, ...form.parts, node("div", { class: "row" }, send, stop));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    running = new AbortController();
    send.disabled = true;
    stop.hidden = false;
    const asked = request(entry, form);
    const body = node("pre", { tabIndex: 0 });
    body.setAttribute("aria-label", "Body");
    const status = node("p", { role: "status" }, "…");
    output.replaceChildren(node("h3", {}, "Answer"), status);
    const began = performance.now();
    try {
      const response = await fetch(asked.url, { ...asked.options, signal: running.signal, cache: "no-store", redirect: "manual" });
      const took = Math.round(performance.now() - began);
      const redirected = response.type === "opaqueredirect";
      status.replaceChildren(node("strong", { class: response.ok ? "good" : "bad" },
        redirected ? "a redirect" : `${response.status} ${response.statusText}`), ` in ${took} ms`);
      status.dataset.status = response.status;
      const lines = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
      output.append(node("details", {}, node("summary", {}, "Headers"), node("pre", {}, lines)), body);
      await read(response, (text) => { body.textContent = text; }, running.signal);
    } catch (error) {
      const stopped = error.name === "AbortError";
      status.append(node("span", { class: stopped ? "soft" : "bad" }, stopped ? " stopped" : ` ${error.message}`));
    } finally {
      send.disabled = false;
      stop.hidden = true;
      output.append(node("details", {}, node("summary", {}, "As a command"), node("pre", {}, curl(asked))));
      if (known) await whoAmI().catch((error) => say(error.message, false));
    }
  });
  return element;
}

function formOf(entry) {
  const { operation, methods } = entry;
  const form = { controls: [], parts: [], body: null, method: () => methods[0].toUpperCase() };
  const sent = methods.map((each) => each.toUpperCase()).filter((each) => !UNSENT.has(each));
  if (sent.length > 1) {
    const choice = node("select", { name: "method" }, ...sent.map((each) => node("option", {}, each)));
    form.method = () => choice.value;
    form.parts.push(node("label", {}, "Method ", choice));
  }
  const rows = (operation.parameters ?? []).map(resolved).map((parameter) => {
    const control = field(parameter);
    form.controls.push([parameter, control]);
    control.id = `${operation.operationId}-${parameter.name}`;
    const label = node("label", { for: control.id, class: parameter.required ? "needed" : "" }, parameter.name);
    return node("tr", {},
      node("th", { scope: "row" }, label, node("p", { class: "soft" }, parameter.in)),
      node("td", {}, control), node("td", {}, ...prose(parameter.description)));
  });
  if (rows.length) form.parts.push(node("table", {}, node("tbody", {}, ...rows)));
  const [media, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  if (media) {
    form.media = media;
    form.body = node("textarea", { name: "body", spellcheck: false, value: JSON.stringify(sample(content.schema), null, 2) });
    form.parts.push(node("label", {}, "Body ", form.body),
      node("details", {}, node("summary", {}, "What it may hold"), node("pre", {}, outline(content.schema))));
  }
  return form;
}

// --- reading it

function answerRow([status, told]) {
  const response = resolved(told);
  const cells = Object.entries(response.content ?? {}).map(([media, { schema, "x-itemSchema": item }]) => {
    const codes = schema?.allOf?.[1]?.properties?.code?.enum;
    if (codes) return null; // named in its description
    const each = item ?? schema?.properties?.data?.contentSchema;
    const shown = each ? `many of ${outline(each)}` : outline(schema ?? { type: media });
    return node("details", {}, node("summary", {}, media), node("pre", {}, shown));
  });
  const headers = Object.keys(response.headers ?? {});
  return node("tr", {}, node("th", { scope: "row" }, status),
    node("td", {}, ...prose(response.description), ...cells,
      headers.length ? node("p", { class: "soft" }, `Headers: ${headers.join(", ")}`) : null));
}

function access(operation) {
  const security = operation.security ?? api.security ?? [];
  if (!security.length) return "For everybody.";
  if (security.some((each) => !Object.keys(each).length)) return "For everybody; a session is looked at, if there is one.";
  return "With a session.";
}

function details(entry) {
  const { operation } = entry;
  const output = node("div", {});
  return [
    ...prose(operation.description), node("p", { class: "soft" }, access(operation)),
    node("h3", {}, "Try it"), trying(entry, formOf(entry), output), output,
    node("h3", {}, "Answers"),
    node("table", {}, node("tbody", {}, ...Object.entries(operation.responses).map(answerRow))),
  ];
}

function item(entry) {
  const { operation, path, methods } = entry;
  const shown = methods.length > 2 ? "any" : methods.filter((each) => each !== "head" || methods.length === 1).join(" ");
  const element = node("details", { id: operation.operationId },
    node("summary", {}, node("span", { class: "method" }, shown.toUpperCase()),
      node("span", { class: "path" }, path), node("span", { class: "says" }, operation.summary ?? "")));
  element.addEventListener("toggle", () => {
    if (element.open && element.children.length === 1) element.append(...details(entry));
  });
  entry.element = element;
  entry.words = `${path} ${methods.join(" ")} ${operation.summary ?? ""} ${operation.description ?? ""}`.toLowerCase();
  return element;
}

// The operations of a path; those by several methods that say the same are one entry.
function entriesOf(path, operations) {
  const entries = [];
  for (const [method, operation] of Object.entries(operations)) {
    if (!operation?.responses) continue;
    const text = JSON.stringify([operation.summary, operation.parameters, operation.requestBody]);
    const known = entries.find((entry) => entry.text === text);
    if (!known) entries.push({ path, methods: [method], operation, text });
    else if (method === "get") Object.assign(known, { methods: ["get", ...known.methods], operation });
    else known.methods.push(method);
  }
  return entries;
}

function show() {
  const entries = Object.entries(api.paths).flatMap(([path, operations]) => entriesOf(path, operations));
  const tags = api.tags ?? [];
  const sections = tags.map((tag, at) => node("section", { "aria-labelledby": `tag-${at}` },
    node("h2", { id: `tag-${at}` }, tag.name), ...prose(tag.description),
    ...entries.filter((entry) => entry.operation.tags?.includes(tag.name)).map(item)));
  one("title").textContent = document.title = api.info.title;
  one("about").replaceChildren(...prose(api.info.description));
  one("list").replaceChildren(...sections);
  one("find").addEventListener("input", () => {
    const words = one("find").value.toLowerCase().split(/\s+/);
    for (const entry of entries) entry.element.hidden = !words.every((word) => entry.words.includes(word));
    for (const section of sections) section.hidden = !section.querySelector("details[id]:not([hidden])");
  });
  const open = () => {
    const wanted = entries.find((entry) => `#${entry.operation.operationId}` === location.hash);
    if (wanted) { wanted.element.open = true; wanted.element.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  open();
}

// --- who is asking

// Whether somebody has logged in here. Who is not known to be is not asked for: that would be a 401.
let known = false;

function say(text, good = true) {
  one("who").textContent = text;
  one("who").className = good ? "" : "bad";
}

async function whoAmI() {
  const response = await fetch(new URL("v1/auth", root), { cache: "no-store", headers: bearer() });
  known = response.status === 200;
  one("log-out").hidden = !known;
  if (!known) return say("Nobody is logged in.");
  const user = response.headers.get("X-Gatelog-User");
  const roles = response.headers.get("X-Gatelog-Roles") || "no role";
  const until = new Date(1000 * Number(response.headers.get("X-Gatelog-Expires")));
  return say(`User ${user}, ${roles}, until ${until.toLocaleString()}.`);
}

async function post(path, body) {
  const options = { method: "POST", headers: bearer() };
  if (body) {
    options.headers.set("Content-Type", "application/json");
    options.body = JSON.stringify(body);
  }
  const response = await fetch(new URL(path, root), options);
  if (response.ok) return whoAmI();
  const problem = await response.json().catch(() => ({}));
  return say(`${response.status}: ${problem.title ?? response.statusText}. ${problem.detail ?? ""}`, false);
}

function on(id, what) {
  one(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    try {
      await what(new FormData(form));
    } catch (error) {
      say(error.message, false);
    }
    form.reset();
  });
}

on("log-in", (given) => post("v1/login_user", { login: given.get("login"), password: given.get("password") }));
on("log-out", () => post("v1/logout_user"));
on("ask", whoAmI);

try {
  const response = await fetch(new URL("openapi.json", root));
  if (!response.ok) throw new Error(`openapi.json: ${response.status}`);
  api = await response.json();
  show();
} catch (error) {
  one("list").replaceChildren(node("p", { class: "bad", role: "alert" }, error.message));
}
