"""Driving a search: configuration, study, loop, tracking and the command line."""
