"""What the parts do against the plainest thing that could do the same, each pair measured in one run."""
