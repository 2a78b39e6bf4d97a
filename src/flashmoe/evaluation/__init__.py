"""How good a packed model's answers are: perplexity, divergence from a more precise pack, tool calls and JSON."""
