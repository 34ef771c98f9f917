"""Who may see and do what: users, roles, sessions, tokens, and the trail of what they changed."""
