"""`headmask explain`: what the heads of a mask do."""
