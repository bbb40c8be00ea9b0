"""What is measured: tasks, their metrics and losses. `registry` has all of them."""
