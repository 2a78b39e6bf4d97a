"""Files of others' making and files that must survive a crash: safetensors headers, atomic writes, checksums.

Knows bytes and dtypes, not models."""
