"""One module for each way to train or predict; a worker process loads exactly one of them."""
