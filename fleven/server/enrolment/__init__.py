"""Who may be a car of this fleet: invitations, keys, identities."""
