"""Pages of who composes: endpoints and actions, build, builds, run.

Rules:

- They are for administrators who have signed in recently, as the API is; ``GATELOG_COMPOSER=off``
  takes them away.
- A form changes one part of the draft (``composer.rules.editing``), and says which it has seen. A
  draft may be unfinished: what stands against a build is said beside what it is about.
- Endpoints and actions are found by their names, which are a parameter and no part of the path: a
  name may have anything in it that is text.
"""
