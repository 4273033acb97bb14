"""MEMIT, EMMET, AlphaEdit and COMEBA: methods that write many edits at once by a least-squares solve."""

METHODS = {
    "alphaedit": "alphaedit:AlphaEdit",
    "emmet": "emmet:Emmet",
    "memit": "memit:Memit",
}
