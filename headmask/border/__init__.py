"""What comes in and what goes out: reading, writing, and what is not ours in messages. The only reader and writer."""
