"""Everything that enters or leaves: reading and writing files, and quoting foreign text in messages."""
