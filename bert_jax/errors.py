"""The one exception for what a user can put right."""


class UserError(Exception):
    """Bad input: one line saying where it is, what was expected and what to do.

    The commands print it on standard error and exit with code 2 (`bert_jax.command.run`).
    """
