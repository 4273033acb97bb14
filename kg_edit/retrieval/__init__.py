"""Which of many texts belong to a prompt: TF-IDF, or a sentence encoder where one is installed."""
