"""What sessions and their tool calls did: written by governors, kept in one SQLite file, told as tables and pages."""
