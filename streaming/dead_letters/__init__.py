"""Work on dead letters: the index in MongoDB, corrections, and sending them again."""
