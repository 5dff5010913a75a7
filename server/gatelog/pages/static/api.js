// Asks the JSON API, as any program would. It is of the same origin, so the browser sends its cookie
// and says where the request comes from.

/** What the service said instead of yes: `status`, and the members of its problem document. */
export class Problem extends Error {
  constructor(status, members) {
    super(members.detail || members.title || `The service answered ${status}.`);
    this.status = status;
    this.code = members.code || "unknown";
    this.members = members;
  }
}

/** The answer in JSON; null for none. Throws Problem, and TypeError when nobody answers. */
export async function ask(method, path, body) {
  const options = { method, headers: { Accept: "application/json" }, cache: "no-store" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const text = await answer.text();
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    content = {};
  }
  if (!answer.ok) throw new Problem(answer.status, content ?? {});
  return content;
}
