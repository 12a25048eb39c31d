"""What shows that an engine keeps its promises: a conformance suite, histories with a checker, and killers.

Used by Nightcrew's own tests and by whoever writes another engine. Nothing here is loaded by an application.
"""
