"""In-context methods: they put the new fact into the prompt and change no weights."""

METHODS = {
    "definition": "definition:Definition",
    "ike": "ike:Ike",
    "memprompt": "memprompt:MemPrompt",
    "popularity-retrieval": "popularity:PopularityRetrieval",
    "rag": "rag:Rag",
}
