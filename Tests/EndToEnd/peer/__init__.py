"""A peer of the tunnel protocol, written from docs/PROTOCOL.md alone, to test that document and its implementations.

It favours being read over being fast: one thread for each agent, one lock, and timers looked at every ten milliseconds.
Only the byte-stream carrier is here. Section numbers in the comments are those of docs/PROTOCOL.md.
"""
