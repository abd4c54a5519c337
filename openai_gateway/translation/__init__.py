"""What the translators of other protocols share: chunks read once, answers as blocks, HTTP around them."""
