"""What frames are: where they come from, which of them the model sees, and how they are cut to size."""
