"""In-context methods: they put the new fact into the prompt and change no weights."""
