"""The model family: one file per model_type, and the decoder they share, written in `ops` alone."""
