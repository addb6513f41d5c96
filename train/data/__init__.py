"""From files, tables and the hub to examples and targets: read, check, describe, tokenise. None of it needs JAX."""
