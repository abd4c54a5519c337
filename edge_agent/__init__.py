"""Edge side of PipeSD: drafts locally, uploads drafts, follows the committed stream."""
