"""What this machine's kernel can do, and (later) what we load into it."""
