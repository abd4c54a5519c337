"""`pipesd bench matrix`: sessions under random drafts against the target alone."""
