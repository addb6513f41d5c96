"""A compiled step and what feeds it: batches, layouts over devices and processes, the memory it needs, evaluation."""
