"""A conversation in a terminal: editing and history by prompt_toolkit, drawing by rich."""
