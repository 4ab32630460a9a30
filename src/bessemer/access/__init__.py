"""Who may do what: organizations, projects, people and the keys they call with.

Thin for now: one organization, one project, one owner, and keys. Every row of the house carries
their ids from the start, so that there can be more of each.
"""

__all__ = ["keys", "tables"]
