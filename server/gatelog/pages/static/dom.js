// Makes parts of a page. Text is only ever text: there is no way to hand markup over.

/** A new element with these attributes (false and null: left out) and children (elements, texts). */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}
