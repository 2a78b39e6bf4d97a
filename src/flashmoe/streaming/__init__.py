"""Experts from disk into memory: reader, arena of slots, cache policy, memory plan. Knows bytes and records, not
models."""
