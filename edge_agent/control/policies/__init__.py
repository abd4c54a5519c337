"""When a batch of drafts is sent for verification."""
