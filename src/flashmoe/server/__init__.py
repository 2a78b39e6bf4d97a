"""OpenAI's and Anthropic's HTTP interfaces on the scheduler. Knows clients, not how a token is computed."""
