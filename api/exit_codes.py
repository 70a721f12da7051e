"""What the exit codes of `topiary` mean."""

SUCCESS = 0
FAILURE = 1
BAD_INPUT = 2
"""Of the user's: the same command would end so again."""

INTERRUPTED = 130
