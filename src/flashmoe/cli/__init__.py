"""The `flashmoe` command: one file per subcommand."""
