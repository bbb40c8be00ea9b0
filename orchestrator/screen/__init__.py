"""What is printed, how far something is, and how a command ends."""
