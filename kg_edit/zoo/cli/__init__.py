"""The commands of the zoo: one for each editor whose network is trained."""
