"""Memory as something that is scheduled: which tool calls may grow, and which wait until others have finished.  Pure."""
