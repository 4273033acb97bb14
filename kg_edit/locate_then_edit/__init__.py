"""What ROME, GLAME and MEMIT share: the loss, the descent, the states that are read, and the joint closed form."""
