"""Knowledge neurons: which of them an answer rests on."""
