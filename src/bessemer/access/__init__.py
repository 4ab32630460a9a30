"""Who may do what: organizations, projects, people, roles, the keys they call with, the trail.

Values and rows only. What is done with them, and that each change leaves a line in the trail, is
in `app`.
"""

__all__ = ["keys", "roles", "tables"]
