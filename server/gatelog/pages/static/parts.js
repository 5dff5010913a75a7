// Parts of a page, fetched anew. The browser makes a document of the answer, in which no script runs:
// what is text there is text here, and rows are made in one place only, on the server.

import { showTimes } from "./times.js";

/** The page at this address, as a document. Throws with the status where it is none. */
export function fetchPage(address) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", address);
    request.responseType = "document";
    request.setRequestHeader("Accept", "text/html");
    request.addEventListener("load", () => {
      const page = request.response;
      if (request.status === 200 && page && new URL(request.responseURL).pathname === location.pathname) {
        resolve(page);
      } else {
        reject(new Error(`The service answered ${request.status}.`));
      }
    });
    request.addEventListener("error", () => reject(new Error("The service does not answer.")));
    request.send();
  });
}

/** An element of a fetched page, for this one; times in the reader's zone. */
export function adopt(element) {
  const own = document.adoptNode(element);
  showTimes(own);
  return own;
}
