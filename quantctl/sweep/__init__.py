"""Running a set of modes, models and seeds, and comparing what they reached."""
