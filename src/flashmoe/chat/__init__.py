"""Text and tokens: tokenizer, the checkpoint's chat template, streaming UTF-8. Knows nothing of engines."""
