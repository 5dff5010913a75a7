"""What every page says to the browser about itself: what may run in it, and who may frame it.

Rules:

- Scripts, styles and images come from here, none stands in the page, and no text becomes markup
  (Content Security Policy, level 3; Trusted Types). No page is framed, by nobody (OWASP ASVS 5.0,
  3.4.6).
- A form goes to this origin. Browsers ask the policy about the redirect after it, too, so the page
  to sign in names the origin that its user comes back to.
- Other origins are told nothing of where a link stood. Our own are: it is where a form's answer
  leads back to. (``no-referrer`` would make the ``Origin`` of our own forms ``null``.)
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from gatelog.http.answers import insist_on_tls
from gatelog.http.credentials import is_local

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'{}; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_OTHERS: Final = {
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def policy(*form_targets: str) -> str:
    """The content security policy; ``form_targets``: origins that a form may lead to as well."""
    return _POLICY.format("".join(f" {origin}" for origin in form_targets))


def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Give a page, or what belongs to one, its headers; a policy of its own it keeps."""
    response.headers.setdefault(hdrs.CONTENT_SECURITY_POLICY, policy())
    response.headers.update(_OTHERS)
    insist_on_tls(request, response, local=is_local(request))
