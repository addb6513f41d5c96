"""Speed beside the peers': the same examples, in one run, in turn."""
