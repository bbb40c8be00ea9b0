"""What a user may set: sections, options, objective, budget and locations."""
