"""A build as a project of one's own: aiohttp handlers on the public API, their tests, a README.

``project.files`` makes it: the same files for the same composition. Rules:

- What a composition says in words of its own (names, descriptions, texts of answers) stands in the
  code as literals and docstrings, whatever is in it: it is never code.
- Names of functions and classes are made of ASCII letters, digits and ``_``, none is a keyword, and
  no two are the same.
- A handler does what the composer does, by ``gatelog.Steps``: the answers are the same.
"""
