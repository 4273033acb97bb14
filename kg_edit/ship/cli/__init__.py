"""The commands that ship patches."""
