"""The commands of the command line, by group; `orchestrator.cli` assembles them."""
