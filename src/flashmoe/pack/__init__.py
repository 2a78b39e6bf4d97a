"""Checkpoint -> packed model (docs/format.md): quantise, write, resume, verify, export. The format lives here."""
