"""The `meters` command: thin; what a command does lives in the packages below it."""
