"""Are the texts the target's own? Through the gateway, and of sessions under random drafts."""
