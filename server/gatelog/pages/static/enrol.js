// Adds a passkey: the browser makes it, the service keeps what it has to. The first factor comes with
// recovery codes, which are shown this once.

import { ask } from "./api.js";
import { make } from "./dom.js";

const begin = document.querySelector("form[data-enrol]");
const naming = document.querySelector("form[data-enrol-name]");
const said = document.getElementById("enrol-said");

async function enrol(name) {
  const offer = await ask("POST", "/v1/factors/passkeys");
  const options = PublicKeyCredential.parseCreationOptionsFromJSON(offer.public_key);
  const credential = await navigator.credentials.create({ publicKey: options });
  return ask("POST", "/v1/factors/passkeys/confirm", {
    challenge: offer.challenge,
    passkey: credential.toJSON(),
    name,
  });
}

function tell(error) {
  const again = { recent_login_required: 1, factor_login_required: 1, not_authenticated: 1 };
  if (error.code in again) {
    const why = error.code === "not_authenticated" ? "" : `&why=${error.code}`;
    location.assign(`/login?return_to=${encodeURIComponent(location.pathname)}${why}`);
  } else {
    said.textContent = error.name === "NotAllowedError" ? "No passkey was made." : error.message;
  }
}

if (begin && window.PublicKeyCredential?.parseCreationOptionsFromJSON) {
  begin.classList.remove("waits");
  begin.addEventListener("submit", (event) => {
    event.preventDefault();
    naming.hidden = false;
    naming.elements.name.focus();
    naming.elements.name.select();
  });
  naming.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.textContent = "Your browser makes the passkey …";
    try {
      const added = await enrol(naming.elements.name.value);
      if (!added.recovery_codes) {
        location.assign(`${location.pathname}?done=factor_added`);
        return;
      }
      const codes = document.getElementById("enrol-codes");
      codes.querySelector("ul").append(...added.recovery_codes.map((code) => make("li", {}, code)));
      said.textContent = "The passkey is added.";
      naming.hidden = true;
      codes.hidden = false;
      codes.focus();
    } catch (error) {
      tell(error);
    }
  });
}
