"""The addresses of the service: REST, event streams, and pages.

A handler is typed input, one service call, typed output.
"""
