"""One collaborative answer: drafts out, commits in, and what to do when the verifier is lost."""
