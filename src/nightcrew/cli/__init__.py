"""The `nightcrew` command.

`main` and `jobs` only declare the commands, so that help costs nothing; what a command does is in the
module that it imports when it is called.
"""
