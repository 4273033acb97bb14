"""Locate, then edit: the value m* of an edit (GLAME Eq. 7) and the closed forms that write it (Eq. 8)."""
