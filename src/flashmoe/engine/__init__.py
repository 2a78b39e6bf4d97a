"""Sequences and their state, the ragged batch, sampling, the generation loop. Knows token ids, not text."""
