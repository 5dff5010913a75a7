// Signs in by a passkey: in the place of the password, or after it. The page has a form
// [data-passkey]; `data-asked` is what to answer, if that has been asked already.

import { ask } from "./api.js";

const text = (id) => document.getElementById(id);

async function answered(publicKey) {
  const options = PublicKeyCredential.parseRequestOptionsFromJSON(publicKey);
  const credential = await navigator.credentials.get({ publicKey: options });
  return credential.toJSON();
}

async function signIn(form) {
  const { asked, challenge } = form.dataset;
  if (asked) {
    const passkey = await answered(JSON.parse(asked));
    return ask("POST", "/v1/login_factor", { challenge, passkey });
  }
  const offer = await ask("POST", "/v1/passkeys/login_options");
  const passkey = await answered(offer.public_key);
  return ask("POST", "/v1/passkeys/login", { challenge: offer.challenge, passkey });
}

for (const form of document.querySelectorAll("form[data-passkey]")) {
  if (!window.PublicKeyCredential?.parseRequestOptionsFromJSON) continue;
  form.classList.remove("waits");
  const said = text("passkey-said");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.textContent = "Your browser asks for the passkey …";
    try {
      await signIn(form);
      location.assign(form.dataset.back);
    } catch (error) {
      const left = error.name === "NotAllowedError";
      said.textContent = left ? "There was no passkey, or it was not shown." : error.message;
    }
  });
}
