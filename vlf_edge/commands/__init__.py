"""The verbs of the command line, one file each: HELP, add_arguments(parser), main(args) -> exit code.

Importing a verb costs nothing: what it needs is imported when it runs.
"""
