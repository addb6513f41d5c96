"""A run from its directory to its last line: the loop, what it saves and resumes from, signals, the watchdog."""
