"""`headmask compare`: several masks side by side, and which of them to ship."""
