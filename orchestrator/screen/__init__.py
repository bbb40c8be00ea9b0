"""Printing, progress, and how a command ends."""
