"""One module for each contestant, in which it is installed, called and run as its guide says.

Each runs in an environment of its own, which holds its library and nothing of ours but `peering`, `sheet` and
`rawtable`. The checkers do not see those libraries, so the modules are named otherwise than these, and say so.
"""
