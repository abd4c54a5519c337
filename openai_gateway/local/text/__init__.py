"""Between text and token ids: template, tokenizer, detokenizer, stop strings."""
