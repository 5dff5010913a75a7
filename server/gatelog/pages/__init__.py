"""Pages for people: made on the server, of the same use cases as the JSON API.

Rules:

- A page works without scripts; small modules of our own add what moves. Nothing is loaded from
  other hosts, and no script or style stands in a page (``pages.headers``).
- Text is text: templates escape everything, and modules set ``textContent`` alone.
- A handler of a page is marked ``@page`` (``pages.door``). Programs are answered there as
  everywhere, with problem documents; a browser's navigation gets a page, or the way to sign in.
- A form is read by ``read_form``, which refuses what another origin sends, with a session or
  without; its handler calls the use case that the API calls, and answers an error beside its field
  (``pages.forms``). What succeeded is answered 303, so that a reload repeats nothing.
- ``GATELOG_PAGES=off`` takes all of them away.
"""
